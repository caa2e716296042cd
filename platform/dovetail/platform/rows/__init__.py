"""Rows on their way: schema, wire formats, intake, positions, accounts."""
