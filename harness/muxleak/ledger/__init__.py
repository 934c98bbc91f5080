"""Counts the tasks and resources of event loops, by scope and creation site."""
