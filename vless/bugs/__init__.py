"""Bugs of mux servers, one folder each: facts, the wrong answer, the right answer, the story.

A folder holds ``__init__.py`` with ``FACTS``, ``buggy.py`` and ``fixed.py`` with one class of the
same name that overrides the same question of `vless.lifecycle`, and ``README.md``. Nothing lists
the folders; to add a pair is to add one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is claimed of a pair, each claim checked by ``muxleak verify``.

    ``witness`` is the shortest known sequence that tells the halves apart; ``fails`` names the
    properties that the buggy half breaks on it; ``needs_gap`` says that no sequence which lets the
    server come to rest after every step can find it.
    """

    title: str
    symptom: str
    question: str
    references: tuple[str, ...]
    witness: str
    fails: tuple[str, ...]
    needs_gap: bool = False
