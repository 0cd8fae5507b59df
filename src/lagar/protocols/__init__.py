"""Wire formats in front of the engine: each one is decode, one call, encode."""
