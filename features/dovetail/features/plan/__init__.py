"""The plan of a definition once its text is understood: free of SQL text and of either engine."""
