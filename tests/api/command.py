"""The ``dovetail`` command, for processes that are forked."""

from dovetail.cli import main

main()
