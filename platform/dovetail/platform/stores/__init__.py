"""Where state lives: online feature state, label rows, and the registry, each beside the positions it includes."""
