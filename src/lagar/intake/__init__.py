"""From a path on disk to a model source that may be loaded; no model library is imported here."""
