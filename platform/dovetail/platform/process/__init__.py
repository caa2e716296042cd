"""The process around a worker: signals and exit codes, health, metrics, watchdog."""
