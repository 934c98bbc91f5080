"""The search: finds, shrinks, counts, and gives up; the same for the same seed."""

import pytest

from muxleak.search import Finding
from muxleak_scenarios import Sequence, find_pair, find_violation, load_pairs, run_sequence
from muxleak_scenarios.pairs.registry import FLAGSHIP
from muxleak_scenarios.pairs.subject import SequenceRunOutcome
from muxleak_vless import Lifecycle
from muxleak_vless.versions import VERSIONS

BUGGY = load_pairs()[FLAGSHIP].buggy


def found(seed: int) -> Finding[SequenceRunOutcome]:
    """Search the flagship."""
    result = find_violation(BUGGY, seed=seed)
    assert result is not None
    return result


@pytest.mark.slow
def test_search_shrinks_to_the_smallest_sequence() -> None:
    """The flagship needs one connection, opened and closed."""
    assert str(found(0).outcome.sequence) == "a:open a:close"


@pytest.mark.slow
def test_search_is_the_same_for_the_same_seed() -> None:
    """Sequence, outcome and the number of examples are repeated; another seed may differ."""
    first, second = found(3), found(3)

    assert first.outcome.sequence == second.outcome.sequence
    assert (first.examples, first.connections) == (second.examples, second.connections)
    assert first.outcome.result.to_json() == second.outcome.result.to_json()


@pytest.mark.slow
def test_search_returns_a_sequence_that_violates_when_it_is_run() -> None:
    """The outcome is that of the sequence, run again from its line."""
    result = found(5)
    again = run_sequence(Sequence.parse(str(result.outcome.sequence)), BUGGY())

    assert again.to_json() == result.outcome.result.to_json()
    assert again.violated


def test_search_finds_nothing_in_the_reference() -> None:
    """Within its budget it runs that many sequences and returns none."""
    runs: list[int] = []

    assert find_violation(Lifecycle, examples=20, progress=runs.append) is None
    assert runs == [*range(1, len(runs) + 1)]
    assert 1 <= len(runs) <= 20


@pytest.mark.slow
def test_search_counts_up_to_the_first_violation() -> None:
    """Shrinking is not counted, but `progress` is called for it."""
    runs: list[int] = []
    result = find_violation(BUGGY, progress=runs.append)

    assert result is not None
    assert 1 <= result.examples < len(runs)
    assert result.connections >= 1


@pytest.mark.slow
def test_search_can_be_asked_for_some_properties() -> None:
    """V1 leaks tasks and cleans up twice: each can be searched for alone."""
    for name in ("tasks", "cleanup"):
        result = find_violation(VERSIONS["V1"], properties=frozenset({name}))
        assert result is not None
        assert name in result.outcome.violated


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 16, 19])
def test_search_goes_on_where_shrinking_ends_too_early(seed: int) -> None:
    """A connection is refused after a cancel, too, which no single change turns into less."""
    pair = find_pair("refused_stays_open")
    result = find_violation(pair.buggy, properties=frozenset(pair.facts.fails), seed=seed)

    assert result is not None
    assert str(result.outcome.sequence) in {"a:connect a:close", "a:bad:user a:close"}


def test_search_ignores_other_properties() -> None:
    """The flagship never breaks the order of bytes."""
    assert find_violation(BUGGY, properties=frozenset({"data"}), examples=15) is None
