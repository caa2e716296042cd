"""Dovetail beside its peers: the same data, answers compared first, then processor time, in alternation.

    python -m benchmarks.peers [NAME ...] [--rounds N] [--scale X]        or: make peers

Each peer has an environment of its own in ``.venv-peers``, made on the first run from ``requirements/NAME.txt``. A
contestant is a module with a function ``begin`` that reads nothing of this package, so it runs in any environment;
:mod:`.one` runs it in a process of its own. The tables go into docs/benchmarks-peers.md.
"""
