"""A snapshot: its columns, its rows by request, the messages that publish it, and finding it again."""
