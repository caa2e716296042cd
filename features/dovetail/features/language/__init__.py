"""From SQL text to a plan: the language of definitions and its refusals."""
