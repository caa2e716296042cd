"""The runtime: carries the work of stages from computed to acknowledged."""
