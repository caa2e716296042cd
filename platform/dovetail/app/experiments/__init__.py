"""Experiments: the models of their arms, and what the samples say of them."""
