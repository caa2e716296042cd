"""The ground everything stands on: configuration, wire format, positions, stores, transports, the worker."""
