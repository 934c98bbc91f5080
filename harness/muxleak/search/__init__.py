"""Searches the runs of a subject for one that fails, and shrinks it.

A subject is an async program (`find_leaks`) or anything else that runs from decisions; `search`
takes any of them.
"""

from muxleak.search.finding import Finding
from muxleak.search.program import ProgramSubject, find_leaks
from muxleak.search.search import Progress, search
from muxleak.search.subject import Decisions, Outcome, Subject

__all__ = [
    "Decisions",
    "Finding",
    "Outcome",
    "ProgramSubject",
    "Progress",
    "Subject",
    "find_leaks",
    "search",
]
