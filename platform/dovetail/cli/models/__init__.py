"""Commands of offline training, evaluation and published models."""
