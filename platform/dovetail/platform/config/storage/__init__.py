"""Where broker and stores are."""
