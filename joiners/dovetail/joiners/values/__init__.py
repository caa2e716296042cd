"""Columns of labels in samples, and labels that take others back: what is declared, and how it is worked out."""
