"""Searches the runs of a program for one that fails, and shrinks it."""

from muxleak.search.search import Finding, Progress, find_leaks

__all__ = ["Finding", "Progress", "find_leaks"]
