"""Advice for the shrinker on connection sequences: their normal form, and large cuts."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

from muxleak.search.subject import Advice
from muxleak_scenarios.sequence import encoding
from muxleak_scenarios.sequence.decoder import random_sequence
from muxleak_scenarios.sequence.steps import CONNECTING, DESTINATIONS, Sequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxleak.search.subject import Decisions


class SequenceAdvice(Advice):
    """Advice on sequences.

    Args:
        virtual: False for targets on real time, where runs are costly.
    """

    def __init__(self, *, virtual: bool = True) -> None:
        self.costly = not virtual
        self._virtual = virtual

    def normal(self, data: Decisions) -> Decisions | None:
        """Return the decisions that say a sequence in normal form; None if they say none."""
        sequence = encoding.decode(data)
        if sequence is None or not is_connected(sequence):
            return None
        return encoding.encode(normal(sequence))

    def cuts(self, data: Decisions) -> Iterator[Decisions]:
        """Yield the decisions that say the `cuts` of a sequence."""
        for each in cuts(encoding.decode(data) or Sequence()):
            yield encoding.encode(each)

    def shorter(self, data: Decisions, seed: int) -> Iterator[Decisions]:
        """Yield random sequences that have fewer steps."""
        random = Random(seed)  # noqa: S311 - a reproducible search, no secret
        fewer = len(data.starts) - 1
        while fewer > 0:
            sequence = random_sequence(random, fewer, virtual=self._virtual)
            yield encoding.encode(normal(sequence))


def normal(sequence: Sequence) -> Sequence:
    """Return the same run with connections named in order, and without the closes at its end.

    Every run closes the connections that are open at its end. In contrast to `Sequence.canonical`,
    which writes those closes out for a reader, this form has the fewest steps.
    """
    names: dict[str, str] = {}
    for step in sequence:
        if step.connection:
            names.setdefault(step.connection, chr(ord("a") + len(names)))
    named = sequence
    if any(old != new for old, new in names.items()):
        named = Sequence(
            step._replace(connection=names.get(step.connection, "")) for step in sequence
        )
    end = len(named)
    while end and named[end - 1].verb == "close":
        end -= 1
    if end < len(named):
        fewer = Sequence(named[:end])
        if fewer.canonical() == named.canonical():
            return fewer
    return named


def is_connected(sequence: Sequence) -> bool:
    """Return True if every connection is opened before it is used."""
    known: set[str] = set()
    for step in sequence:
        if step.verb in CONNECTING:
            known.add(step.connection)
        elif step.connection and step.connection not in known:
            return False
    return True


def cuts(sequence: Sequence) -> Iterator[Sequence]:
    """Yield simpler sequences to try before all others.

    One connection alone; all but one; one step in place of `connect` and `header`; streams
    numbered anew; an echo for each destination.
    """
    names = sorted({step.connection for step in sequence if step.connection})
    for name in names:
        yield Sequence(step for step in sequence if step.connection == name)
    for name in names:
        yield Sequence(step for step in sequence if step.connection != name)
    for at, (one, two) in enumerate(pairwise(sequence)):
        if (one.verb, two.verb) == ("connect", "header") and one.connection == two.connection:
            both = one._replace(verb="open", gap=two.gap)
            yield Sequence((*sequence[:at], both, *sequence[at + 2 :]))
    yield numbered_anew(sequence)
    for at, step in enumerate(sequence):
        if step.what in DESTINATIONS[1:]:
            plainer = step._replace(what=DESTINATIONS[0])
            yield Sequence((*sequence[:at], plainer, *sequence[at + 1 :]))


def numbered_anew(sequence: Sequence) -> Sequence:
    """Return the sequence with streams numbered in the order of their first use."""
    ids = dict.fromkeys(step.stream for step in sequence if step.stream is not None)
    numbers = {stream: number for number, stream in enumerate(ids, 1)}
    return Sequence(
        step if step.stream is None else step._replace(stream=numbers[step.stream])
        for step in sequence
    )
