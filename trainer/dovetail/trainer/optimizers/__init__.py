"""Per-coordinate online optimizers, one algorithm per file, behind :class:`.base.Optimizer`."""
