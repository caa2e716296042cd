"""The pages of the console: each a function from what is asked to what its template shows."""
