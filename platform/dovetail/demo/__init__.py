"""``dovetail demo``: the whole flow, embedded, over a recorded log."""
