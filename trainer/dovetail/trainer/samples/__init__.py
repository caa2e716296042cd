"""Samples as examples: inputs, hashing, encoding, imports of other formats."""
