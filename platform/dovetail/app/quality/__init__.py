"""Data quality and drift: what columns are like, window by window, and which windows are not like those before."""
