"""The pairs of a buggy and a fixed variant: registry, search and proof."""
