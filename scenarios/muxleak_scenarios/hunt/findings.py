"""Outcomes of measurements, the file of findings, and the knowledge that keeps them from repeating.

A finding of a hunt is a `Finding` of the engine with a `HuntOutcome`.
"""

# A known finding is used in three ways (`Known`), from the strictest to the loosest:
#
# - `mask` leaves it out of a sequence before that is measured.
# - `unexplained` subtracts it from a growth if it cannot be left out, once for each connection.
# - `explains` accepts a growth that is a sum of known growths, each any number of times. Both
#   counts must fit: with destinations alive and after they have closed. The search tries the
#   largest multiple of each finding first and goes back if the rest does not fit; a greedy division
#   would fail where one finding contains a part of another.
#
# The file has sequences in notation and growths by stack, so a later hunt, of another version of
# the server too, can skip the findings of this one (``--known``). Sequences are matched by a search
# that recurses once for each step, so a file's may have at most `MAX_STEPS`.

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from muxleak import files
from muxleak.search.finding import Finding
from muxleak.search.subject import Outcome
from muxleak.sim.replay import HUNT, read_all, text_of_all
from muxleak_scenarios.hunt import pattern
from muxleak_scenarios.hunt.measure import RepetitionGrowth
from muxleak_scenarios.sequence.describe import step_in_words
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from muxleak_scenarios.hunt.stacks import Stack

MAX_BYTES = 1 << 23
"""Size of a file, at most."""
MAX_STEPS = 500
"""Steps of a sequence in a file, at most."""
_MAX_FINDINGS = 1000
_MAX_SECONDS = 10**9

_T = TypeVar("_T")


_NOTHING = RepetitionGrowth(Counter(), Counter())
_EMPTY = Sequence()


@dataclass(frozen=True, slots=True)
class HuntOutcome(Outcome):
    """A sequence and its growth.

    What an outcome says in general, its verdict for instance, is filled in by `finding`.

    Attributes:
        sequence: the shortest sequence that was seen.
        growth: growth for one repetition.
        shrunk: True if no step can be left out.
        confirmed: True if the growth was measured in full, with the long wait.
        seconds: length of that wait.
        died: how the server died of it; "" if it did not.
        log: the last lines of output of a server of ours.
        after: seconds from the start of the hunt until the sequence was measured.
        gone: seconds after which all growth had gone by itself; 0 if some of it stays.
    """

    sequence: Sequence = _EMPTY
    growth: RepetitionGrowth = _NOTHING
    shrunk: bool = True
    confirmed: bool = True
    seconds: float = 0
    died: str = ""
    log: tuple[str, ...] = ()
    after: float = 0
    gone: float = 0

    @property
    def freed(self) -> str:
        """Text that names the event that frees the growth."""
        if self.gone:
            return f"the server itself, within {self.gone:.1f} s"
        held, kept = self.growth.held.total(), self.growth.kept.total()
        if self.died:
            return ""
        if not self.confirmed:
            return "not known: the hunt ended before that was measured"
        if not kept:
            return (
                "the end of its destination, which is a peer that others control; nothing else "
                f"within {self.seconds:g} s"
            )
        gone = "client and destination gone"
        if any(step.what == "@hang" for step in self.sequence):
            gone = "the client gone; a destination that does not answer cannot go"
        nothing = f"nothing within {self.seconds:g} s, with {gone}"
        if kept == held:
            return nothing
        return f"in part the end of its destination; the rest {nothing}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        growth = self.growth
        stacks = sorted({*growth.held, *growth.kept})
        return {
            "sequence": str(self.sequence),
            "shrunk": self.shrunk,
            "confirmed": self.confirmed,
            "exact": growth.exact,
            "waited_seconds": self.seconds,
            "tasks": dict(zip(("held", "kept"), growth.tasks, strict=True)),
            "descriptors": dict(zip(("held", "kept"), growth.descriptors, strict=True)),
            "memory": growth.memory,
            "freed_by": self.freed,
            "gone_after_seconds": round(self.gone, 1) or None,
            "counts": [
                {"held": growth.held[each], "kept": growth.kept[each], "stack": list(each)}
                for each in stacks
            ],
            "found_after_seconds": round(self.after, 1),
            "died": self.died or None,
            "log": list(self.log),
        }

    def finding(
        self, server: str, measurements: int = 0, connections: int = 0
    ) -> Finding[HuntOutcome]:
        """Return it as a finding of the engine.

        Args:
            server: the address of the server.
            measurements: number of measurements until then.
            connections: number of connections until then.
        """
        growth = self.growth
        held, kept = growth.held.total(), growth.kept.total()
        outcome = replace(
            self,
            signature=self.died or frozenset({*growth.held, *growth.kept}),
            verdict=f"the server died: it {self.died}"
            if self.died
            else f"each repetition leaves {held}, and {kept} after its destination has closed",
            steps=tuple(f"{step}  {step_in_words(step)}" for step in self.sequence),
        )
        replay = replace(
            outcome.recorded(HUNT, server), notation=str(self.sequence), details=self.to_json()
        )
        ended = "" if self.shrunk else "time"
        return Finding(server, outcome, replay, measurements, connections, 0, ended=ended)

    @classmethod
    def from_json(cls, data: object) -> HuntOutcome:
        """Read the data of `to_json`.

        Raises:
            ValueError: the data is of another form; the message names the field.
        """
        held: Counter[Stack] = Counter()
        kept: Counter[Stack] = Counter()
        for each in files.field(data, "counts", list):
            names = files.field(each, "stack", list)
            stack = tuple(files.checked(name, str, "a stack") for name in names)
            held[stack] += _count(each, "held")
            kept[stack] += _count(each, "kept")
        growth = RepetitionGrowth(+held, +kept, files.field(data, "exact", bool))
        sequence = Sequence.parse(files.field(data, "sequence", str))
        if not 0 < len(sequence) <= MAX_STEPS:
            raise ValueError(f"sequence: expected 1 to {MAX_STEPS} steps, got {len(sequence):,}")
        died = _optional(data, "died", str, "")
        gone = _optional(data, "gone_after_seconds", float, 0.0)
        if not 0 <= gone <= _MAX_SECONDS:
            raise ValueError(f"gone_after_seconds: expected 0 or more, got {gone:g}")
        return cls(sequence=sequence, growth=growth, died=died, gone=gone)


def write(findings: list[HuntOutcome], server: str = "") -> str:
    """Return the text of a replay file with outcomes of measurements.

    Args:
        findings: the outcomes.
        server: the address of the server.
    """
    return text_of_all(each.finding(server).replay for each in findings)


def read(text: str) -> list[HuntOutcome]:
    """Read the text of a file with findings.

    Raises:
        ValueError: it is no such file, or one of another version.
    """
    expected = "expected a file that muxleak hunt has written, version 1"
    try:
        findings = read_all(text)
        if len(findings) > _MAX_FINDINGS:
            raise ValueError(  # noqa: TRY301 - the handler completes it
                f"expected at most {_MAX_FINDINGS:,} findings, got {len(findings):,}"
            )
        return [HuntOutcome.from_json(each) for each in findings]
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from None


def _count(data: object, name: str) -> int:
    count = files.field(data, name, int)
    if count < 0:
        raise ValueError(f"{name!r}: expected a count of 0 or more, got {count}")
    return count


def _optional(data: object, name: str, kind: type[_T], default: _T) -> _T:
    """Return a field of a JSON object that may be null or left out."""
    found = files.checked(data, dict, "a finding")
    return default if found.get(name) is None else files.field(found, name, kind)


class Known:
    """The known findings of a hunt.

    Args:
        findings: those of earlier hunts.
    """

    def __init__(self, findings: list[HuntOutcome]) -> None:
        self._findings = list(findings)

    def add(self, finding: HuntOutcome) -> None:
        """Add a finding."""
        self._findings.append(finding)

    def mask(self, sequence: Sequence) -> Sequence:
        """Return a sequence without the known findings that can be left out."""
        for finding in self._findings:
            masked = pattern.mask(finding.sequence, sequence)
            sequence = sequence if masked is None else masked
        return sequence.canonical()

    def shows(self, sequence: Sequence) -> bool:
        """Return True if a sequence contains a known finding that could be left out."""
        return any(
            pattern.find(each.sequence, sequence) is not None
            and pattern.mask(each.sequence, sequence) is not None
            for each in self._findings
        )

    def unexplained(self, sequence: Sequence, growth: RepetitionGrowth) -> RepetitionGrowth:
        """Subtract the known growth of every connection, which cannot be left out."""
        for each in self._findings:
            if pattern.mask(each.sequence, sequence) is None:
                growth = growth.without(each.growth, pattern.connections(sequence))
        return growth

    def explains(self, growth: RepetitionGrowth) -> bool:
        """Return True if a growth is a sum of known growths, each any number of times."""
        counts, known = _joined(growth), [_joined(each.growth) for each in self._findings]
        # Those with more than the whole are left out first: the search goes one level deeper for
        # each of the others.
        return _is_sum(counts, [each for each in known if each and each <= counts])

    def has_died(self, died: str) -> bool:
        """Return True if a known finding ends with this death."""
        return any(each.died == died for each in self._findings)


def _joined(growth: RepetitionGrowth) -> Counter[tuple[str, Stack]]:
    counts: Counter[tuple[str, Stack]] = Counter()
    for name, part in (("held", growth.held), ("kept", growth.kept)):
        counts.update({(name, stack): count for stack, count in part.items()})
    return counts


def _is_sum(counts: Counter[tuple[str, Stack]], parts: list[Counter[tuple[str, Stack]]]) -> bool:
    if not counts:
        return True
    if not parts:
        return False
    part, *others = parts
    most = min(counts[each] // times for each, times in part.items())
    for taken in range(most, -1, -1):
        left = counts.copy()
        left.subtract({each: taken * times for each, times in part.items()})
        if _is_sum(+left, others):
            return True
    return False
