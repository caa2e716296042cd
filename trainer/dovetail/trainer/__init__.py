"""Online logistic regression over hashed features: encode, predict, train, checkpoint, publish, score."""
