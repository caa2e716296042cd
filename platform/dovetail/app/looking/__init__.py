"""The rows that a project has made, to look at: samples, snapshots, dead letters, online values."""
