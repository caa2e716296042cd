"""The HTTP API: events, labels and requests in; scores, features and the state of the project out."""
