"""The scenes of a project, put together: what each has of its own, over what they share."""
