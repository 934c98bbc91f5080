"""A case of the corpus; see README.md."""
