"""Findings of a search that was never made, for tests of whatever shows them."""

from muxleak.search import Finding
from muxleak_scenarios import Sequence, SequenceOutcome
from muxleak_scenarios.pairs.subject import SequenceRunOutcome, SequenceSubject
from muxleak_scenarios.sequence import encoding
from muxleak_scenarios.sequence.describe import step_in_words
from muxleak_vless.lifecycle import Lifecycle


def finding(
    sequence: Sequence, result: SequenceOutcome, examples: int = 3, connections: int = 45
) -> Finding[SequenceRunOutcome]:
    """The finding of a sequence with an outcome."""
    outcome = SequenceRunOutcome(
        encoding.encode(sequence),
        frozenset(result.violated),
        f"violated: {', '.join(result.violated)}",
        tuple(f"{step}  {step_in_words(step)}" for step in sequence),
        () if result.report is None else result.report.groups,
        sequence=sequence,
        result=result,
    )
    subject = SequenceSubject(Lifecycle)
    return Finding("", outcome, subject.replay(outcome), examples, connections, shrinks=0)
