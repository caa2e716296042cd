"""Polls that wait for their turn: gathered with those that follow, and looked at while others are handled."""
