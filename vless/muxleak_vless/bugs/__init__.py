"""Bugs of mux servers, a folder each: a pair of a buggy and a fixed variant.

A folder holds ``__init__.py`` with ``FACTS``; ``buggy.py`` and ``fixed.py`` with one class of the
same name that overrides the same question of `muxleak_vless.lifecycle`; and ``README.md``. No file
lists the folders: a new folder is a new pair.

A folder may also hold fixes that were tried and were wrong, ``wrong_*.py``: ``FACTS``, a
`WrongFix`, and one class that is the reference but for the questions that the fix answered wrongly.
"""

# A pair isolates one mistake, so that a test can show that this mistake alone causes the leak, and
# that this change alone ends it:
#
# - The variants override one question, and differ in nothing else. They have the same imports, even
#   unused ones, so that their diff shows the mistake alone; it is at most 15 lines.
# - The method of the fixed variant is the reference's own, word for word, so it cannot drift.
# - The leak is real: tasks that wait for futures which nothing will set.
# - `muxleak verify` checks each claim of the facts, and also that no step of the minimal sequence
#   can be left out.

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Claims about a pair, each checked by ``muxleak verify``.

    Attributes:
        title: The mistake in one line.
        symptom: The effect that users or operators see.
        question: Name of the method of `Lifecycle` that both variants override.
        references: Upstream issues, versions and commits, with measured effects.
        minimal: The shortest known sequence on which the variants differ.
        fails: The properties that the buggy variant breaks on it.
        needs_gap: True if no sequence that lets the server become quiescent after every step
            finds the bug.
        aliases: Other names that commands accept for the pair, such as the number of its issue.
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
    """Claims about a fix that repaired its pair's bug and broke something else.

    On the pair's minimal sequence it breaks none of the properties that the buggy variant breaks.

    Attributes:
        title: The new mistake in one line.
        references: Upstream issues, versions and commits, with measured effects.
        minimal: A sequence that shows the new mistake, after its history; no step of it can be left
            out.
        fails: The properties that the wrong fix breaks on it.
    """

    title: str
    references: tuple[str, ...]
    minimal: str
    fails: tuple[str, ...]
