"""Bugs of mux servers, one folder each: facts, the wrong answer, the right answer, the story.

A folder holds ``__init__.py`` with ``FACTS``, ``buggy.py`` and ``fixed.py`` with one class of the
same name that overrides the same question of `muxleak_vless.lifecycle`, and ``README.md``. Nothing
lists the folders; to add a pair is to add one.

Beside them may stand fixes that were tried and were wrong, ``wrong_*.py``: ``FACTS``, a `WrongFix`,
and one class that is the reference but for the questions that the fix answered wrongly.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is claimed of a pair, each claim checked by ``muxleak verify``.

    ``minimal`` is the shortest known sequence that tells the variants apart; ``fails`` names the
    properties that the buggy variant breaks on it; ``needs_gap`` says that no sequence which lets
    the server come to rest after every step can find it; ``aliases`` are other names that commands
    take for the pair, such as the number of its issue.
    """

    title: str
    symptom: str
    question: str
    references: tuple[str, ...]
    minimal: str
    fails: tuple[str, ...]
    needs_gap: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongFix:
    """What is claimed of a fix that repaired its pair's bug and broke something else.

    It breaks nothing that the buggy variant breaks on the pair's minimal sequence.
    ``minimal`` shows what the fix broke, as its history has it, and no step of it can be left out;
    ``fails`` names the properties that it breaks on that.
    """

    title: str
    references: tuple[str, ...]
    minimal: str
    fails: tuple[str, ...]
