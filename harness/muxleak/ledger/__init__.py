"""Counts live tasks and other resources by scope, with their creation sites."""
