"""Models as files: checkpoints, published versions, their gate, mirror and scorer."""
