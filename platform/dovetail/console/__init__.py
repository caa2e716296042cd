"""The console: read-only web pages about a project, served beside a worker or by ``dovetail console``."""
