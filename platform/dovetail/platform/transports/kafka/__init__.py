"""The Kafka transport: aiokafka under Faust, with whole polls as messages."""
