"""Commands that show the rows which a project has made."""
