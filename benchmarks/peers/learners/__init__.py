"""Learners: logistic regression by FTRL-proximal, each example predicted and then trained on."""
