"""The control process: what people and scrapers read. The web framework is imported here only."""
