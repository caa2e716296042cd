"""Numba kernels that stream and batch share: integer arithmetic of 128 bits and the finishers of aggregates."""
