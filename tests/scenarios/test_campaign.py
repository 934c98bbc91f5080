"""Campaigns: they find, shrink, remember, forget, and keep to their budget."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis.database import DirectoryBasedExampleDatabase, InMemoryExampleDatabase

from muxleak_scenarios import (
    Sequence,
    SimTarget,
    TcpTarget,
    find_pair,
    load_pairs,
    run_sequence,
)
from muxleak_scenarios.pairs import subject
from muxleak_scenarios.pairs.campaign import Budget, Campaign, CampaignProgress, CampaignResult
from muxleak_scenarios.pairs.registry import FLAGSHIP, Pair
from muxleak_scenarios.sequence.properties import SequenceOutcome, Violation
from muxleak_vless import Lifecycle
from pairs import SOME_PAIRS, SOME_SLUGS

PAIR = load_pairs()[FLAGSHIP]
LONG = find_pair("live_id_reused")
"""A pair that takes hundreds of runs to shrink."""


def after(calls: int) -> Callable[[], bool]:
    """Return a function that says to stop after a number of calls."""
    asked = count(1)
    return lambda: next(asked) > calls


def brief(
    lifecycle: type[Lifecycle] = LONG.buggy,
    database: InMemoryExampleDatabase | None = None,
    calls: int = 6,
) -> CampaignResult:
    """Run a campaign of so many sequences, shrinking included."""
    return Campaign(lifecycle, database=database, stopped=after(calls)).run()


@pytest.mark.slow
@pytest.mark.parametrize("pair", SOME_PAIRS, ids=SOME_SLUGS)
def test_campaign_finds_pairs_and_shrinks_to_the_minimal_sequence(pair: Pair) -> None:
    """The buggy variant is caught, in no more steps than the shortest sequence known."""
    result = Campaign(pair.buggy).run()

    assert result.found is not None
    assert result.ended == "shrunk"
    assert set(result.found.outcome.violated) & set(pair.facts.fails)
    assert len(result.found.outcome.sequence) <= len(pair.minimal)
    assert 1 <= result.found.examples < result.status.sequences


@pytest.mark.slow
@pytest.mark.parametrize("pair", SOME_PAIRS, ids=SOME_SLUGS)
def test_campaign_remembers_what_it_found(pair: Pair, tmp_path: Path) -> None:
    """A second campaign, with its own view of the directory, finds it with its first sequence."""
    first, second = (
        Campaign(pair.buggy, database=DirectoryBasedExampleDatabase(tmp_path), key="x").run()
        for _ in range(2)
    )

    assert first.found is not None
    assert second.found is not None
    assert (first.remembered, second.remembered) == (False, True)
    assert second.found.examples == 1
    assert second.status.sequences <= 2
    assert second.found.outcome.sequence == first.found.outcome.sequence


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 7])
def test_campaign_goes_on_where_shrinking_ends_too_early(seed: int) -> None:
    """Five steps, none of which can be removed alone, become two, and those are remembered."""
    database = InMemoryExampleDatabase()
    buggy = find_pair("refused_stays_open").buggy
    first, second = (Campaign(buggy, seed=seed, database=database).run() for _ in range(2))

    assert first.found is not None
    assert second.found is not None
    assert len(first.found.outcome.sequence) <= 2
    assert second.found.outcome.sequence == first.found.outcome.sequence
    assert (second.remembered, second.status.sequences) == (True, 1)


def test_campaign_forgets_what_it_cannot_read() -> None:
    """A remembered sequence may have been written by a release with another notation."""
    database = InMemoryExampleDatabase()
    key = b"muxleak .shortest"
    for each in (b"a:open a:fly", b"\xff", b"b:close", b"a:open a:data:" + b"9" * 5000):
        database.save(key, each)
    result = Campaign(PAIR.fixed, budget=Budget(2), database=database).run()

    assert (result.ended, result.status.sequences) == ("examples", 2)
    assert list(database.fetch(key)) == []


def test_campaign_finds_nothing_in_fixed_variants() -> None:
    """The budget is spent to the last sequence, and the result says so."""
    result = Campaign(PAIR.fixed, budget=Budget(10)).run()

    assert result.found is None
    assert result.ended == "examples"
    assert result.status.searched == result.status.sequences == 10
    assert result.status.connections > 10


def test_campaign_keeps_what_it_has_when_it_is_stopped() -> None:
    """The finding violates the property, shrunk or not."""
    result = brief()

    assert result.ended == "stopped"
    assert result.status.sequences == 6
    assert result.found is not None
    assert "tasks" in run_sequence(result.found.outcome.sequence, LONG.buggy()).violated


def test_campaign_goes_on_shrinking_what_was_left_unshrunk() -> None:
    """The finding of a stopped campaign is tried first, and can become shorter."""
    database = InMemoryExampleDatabase()
    first, second = brief(database=database), brief(database=database, calls=12)

    assert first.found is not None
    assert second.found is not None
    assert second.remembered
    assert second.found.examples == 1
    assert second.status.sequences == 12
    assert len(second.found.outcome.sequence) <= len(first.found.outcome.sequence)


def test_campaign_forgets_what_is_fixed() -> None:
    """After a fix, a remembered finding is tried once and then deleted."""
    database = InMemoryExampleDatabase()
    brief(database=database)
    results = [
        Campaign(PAIR.fixed, budget=Budget(1), database=database).run().status.sequences
        for _ in range(2)
    ]

    assert results[0] > 1
    assert results[1] == 1


def test_campaign_ends_when_its_time_is_up() -> None:
    """Time is asked for before every sequence; sequences are without limit."""
    clock = map(float, count())
    result = Campaign(PAIR.fixed, budget=Budget(None, 5.0), clock=lambda: next(clock)).run()

    assert result.ended == "time"
    assert result.found is None
    assert 1 <= result.status.sequences <= 5


def test_campaign_shrinks_within_its_time_only() -> None:
    """Time that is up while it shrinks leaves the shortest so far."""
    clock = map(float, count())
    result = Campaign(LONG.buggy, budget=Budget(None, 12.0), clock=lambda: next(clock)).run()

    assert result.ended == "time"
    assert result.found is not None


def test_campaign_is_the_same_for_the_same_seed() -> None:
    """The number of connections until the finding is the same."""
    results = [
        Campaign(PAIR.buggy, seed=seed, stopped=after(3)).run().status.connections
        for seed in (7, 7, 8)
    ]

    assert results[0] == results[1]
    assert results[0] != results[2]


def test_campaign_tells_how_far_it_is() -> None:
    """Progress comes once for every sequence, with the shortest length, which never grows."""
    reported: list[CampaignProgress] = []
    Campaign(LONG.buggy, progress=reported.append, stopped=after(15)).run()
    lengths = [status.shortest for status in reported if status.shortest is not None]

    assert [status.sequences for status in reported] == [*range(1, 16)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]
    assert {status.doing for status in reported} == {"searches", "shrinks"} or reported[0].shortest
    assert CampaignProgress("searches", 1, 1, 30, 2.0, None).rate == 15
    assert CampaignProgress("searches", 0, 0, 0, 0.0, None).rate == 0


@pytest.mark.parametrize("canonical", [False, True])
def test_campaign_shrinks_to_what_violates_the_same(
    monkeypatch: pytest.MonkeyPatch, *, canonical: bool
) -> None:
    """A shorter sequence that violates another property is not taken, nor returned."""

    def run(sequence: Sequence, *_: object, **__: object) -> SequenceOutcome:
        same = len(sequence) > 3 and (canonical or sequence != sequence.canonical())
        violation = Violation("tasks" if same else "timers", "", "")
        return SequenceOutcome([violation], performed=len(sequence))

    monkeypatch.setattr(subject, "run_sequence", run)
    result = Campaign(PAIR.buggy, stopped=after(20)).run()

    assert result.found is not None
    assert result.found.outcome.violated == ("tasks",)
    assert len(result.found.outcome.sequence) > 3


@pytest.mark.slow
@pytest.mark.parametrize("agrees", [True, False])
def test_campaign_shrinks_where_no_time_passes(*, agrees: bool) -> None:
    """Real time is spent on the search and on one check of the result of shrinking."""
    runs = 0
    found = False

    def target(lifecycle: Lifecycle) -> SimTarget:
        nonlocal runs
        runs += 1
        return SimTarget(PAIR.fixed() if found and not agrees else lifecycle)

    def tell(status: CampaignProgress) -> None:
        nonlocal found
        found = status.doing == "shrinks"

    result = Campaign(PAIR.buggy, target=target, virtual=False, progress=tell).run()

    assert result.found is not None
    assert set(result.found.outcome.violated) & set(PAIR.facts.fails)
    if agrees:
        assert result.ended == "shrunk"
        assert len(result.found.outcome.sequence) <= len(PAIR.minimal)
        assert runs == result.found.examples + 2
    else:
        assert len(result.found.outcome.sequence) > len(PAIR.minimal)


@pytest.mark.slow
def test_campaign_runs_over_tcp() -> None:
    """On real sockets it finds the same and lets no idle intervals pass."""
    budget = Budget(5, 3.0)
    buggy = Campaign(PAIR.buggy, budget=budget, target=TcpTarget, virtual=False).run()
    fixed = Campaign(PAIR.fixed, budget=Budget(2), target=TcpTarget, virtual=False).run()

    assert buggy.found is not None
    assert fixed.found is None
