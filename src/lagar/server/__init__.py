"""The processes that answer: supervisor, workers, and their way of talking to each other."""
