"""State of the aggregates that keep values: entries, and the rules by which they leave."""
