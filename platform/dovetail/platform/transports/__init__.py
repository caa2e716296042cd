"""The two Faust transport drivers: Kafka, one message per poll, and the embedded log in one SQLite file."""
