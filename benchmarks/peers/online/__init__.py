"""Online: the features of one request's user and candidates, from a store that is on disk or in Redis."""
