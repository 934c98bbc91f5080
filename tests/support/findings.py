"""Findings of a search that was never made, for tests of whatever shows them."""

from muxleak.search import Finding
from muxleak_scenarios import Sequence, SequenceOutcome
from muxleak_scenarios.pairs.subject import SequenceLine, SequenceRunOutcome
from muxleak_scenarios.sequence import encoding


def finding(
    sequence: Sequence, result: SequenceOutcome, examples: int = 3, connections: int = 45
) -> Finding[SequenceRunOutcome]:
    """The finding of a sequence with an outcome."""
    outcome = SequenceRunOutcome(
        encoding.encode(sequence),
        frozenset(result.violated),
        sequence=sequence,
        result=result,
    )
    line = SequenceLine(str(sequence))
    return Finding("", outcome, line, examples, connections, shrinks=0)
