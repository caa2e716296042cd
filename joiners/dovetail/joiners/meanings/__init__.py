"""The meanings of labels: the settings by which a snapshot row is judged, however they have changed since."""
