"""What answers: the router, the batcher, and the loaded versions. It knows no wire format."""
