"""Verify proves claims: each claim, planted wrong, is found broken, and no other."""

from dataclasses import replace

import pytest

from muxleak_scenarios import Pair, load_pairs
from muxleak_scenarios.pairs.registry import FLAGSHIP
from muxleak_scenarios.pairs.verify import Verdict, reference_holds, verify
from muxleak_vless import Lifecycle, MuxSession
from pairs import SOME_PAIRS, SOME_SLUGS

PAIR = load_pairs()[FLAGSHIP]
GAP = load_pairs()["new_after_cleanup"]


def broken(pair: Pair) -> list[str]:
    """Return the claims of a pair that do not hold, by their first words."""
    return [line.partition(":")[0] for line in verify(pair, fixed_sequences=5).broken]


@pytest.mark.slow
@pytest.mark.parametrize("pair", SOME_PAIRS, ids=SOME_SLUGS)
def test_verify_holds_for_pairs(pair: Pair) -> None:
    """All claims, in a third of the sequences that the command takes for the fixed variant."""
    said: list[str] = []
    verdict = verify(pair, fixed_sequences=100, progress=said.append)

    assert verdict.broken == []
    assert verdict.holds
    assert verdict.buggy == pair.facts.fails
    assert len(said) == 4
    assert verdict.connections > 500
    plain = verdict.to_json()
    assert (plain["pair"], plain["holds"], plain["fixed"]) == (pair.slug, True, "clean")
    assert plain["found_at"]["sequences"] >= 1
    assert len(plain["minimal"].split()) <= len(pair.minimal)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        pytest.param(
            replace(PAIR, facts=replace(PAIR.facts, fails=("cleanup",))),
            ["minimal sequence in SimTarget", "minimal sequence in TcpTarget", "search"],
            id="breaks another property",
        ),
        pytest.param(
            replace(PAIR, facts=replace(PAIR.facts, needs_gap=True)),
            ["needs a gap"],
            id="needs no gap",
        ),
        pytest.param(
            replace(GAP, facts=replace(GAP.facts, needs_gap=False)),
            ["needs a gap"],
            id="needs a gap",
        ),
        pytest.param(
            replace(PAIR, facts=replace(PAIR.facts, question="admit")),
            ["buggy variant", "fixed variant"],
            id="answers another question",
        ),
        pytest.param(
            replace(PAIR, facts=replace(PAIR.facts, question="no_question")),
            ["buggy variant", "fixed variant", "question"],
            id="answers no question",
        ),
        pytest.param(
            replace(GAP, facts=replace(GAP.facts, minimal="a:open a:close")),
            [
                "minimal sequence in SimTarget",
                "minimal sequence in TcpTarget",
                "needs a gap",
                "search",
            ],
            id="another minimal sequence",
        ),
    ],
)
def test_verify_finds_a_wrong_claim(pair: Pair, expected: list[str]) -> None:
    """A wrong fact is found."""
    assert broken(pair) == expected


@pytest.mark.slow
def test_verify_finds_a_variant_that_is_fixed_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimal sequence and the search both show a buggy variant without the bug."""
    monkeypatch.setattr("muxleak_scenarios.pairs.verify.SEARCH_EXAMPLES", 100)
    pair = replace(PAIR, buggy=PAIR.fixed, facts=replace(PAIR.facts, fails=("tasks",)))

    assert broken(pair) == [
        "minimal sequence in SimTarget",
        "minimal sequence in TcpTarget",
        "search",
    ]


@pytest.mark.slow
def test_verify_finds_a_variant_that_is_not_fixed() -> None:
    """Every claim about the fixed variant shows a buggy method in it."""
    verdict = verify(replace(PAIR, fixed=PAIR.buggy), fixed_sequences=5)
    words = [line.partition(":")[0] for line in verdict.broken]

    assert words == [
        "fixed variant",
        "minimal sequence in SimTarget",
        "minimal sequence in TcpTarget",
        "tasks",
    ]
    assert verdict.fixed[0] == "tasks"
    assert verdict.to_json()["fixed"][0] == "tasks"
    assert not verdict.holds


def test_reference_holds() -> None:
    """The reference holds on the given number of sequences."""
    assert reference_holds(sequences=10) == []


@pytest.mark.parametrize("question", ["watched_context", "may_clean_up", "release", "id_reused"])
def test_reference_with_a_wrong_answer_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """A buggy method in the reference itself is found and reported with its line."""
    (pair,) = (each for each in load_pairs().values() if each.facts.question == question)
    monkeypatch.setattr(Lifecycle, question, getattr(pair.buggy, question))
    (line,) = reference_holds(sequences=50)

    assert line.partition(":")[0] in pair.facts.fails
    assert "a:open" in line


def test_reference_that_loses_bytes_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that delivers nothing does not hold."""

    async def lose(*_: object) -> None:
        pass

    monkeypatch.setattr(Lifecycle, "deliver", lose)

    assert reference_holds(sequences=10)[0].startswith("data: ")


def test_reference_that_crashes_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that drops a connection without cause does not hold."""

    def crash(_self: Lifecycle, session: MuxSession) -> bool:
        session.link.close()
        return False

    monkeypatch.setattr(Lifecycle, "admit", crash)

    assert "ended it, without cause" in reference_holds(sequences=10)[0]


def test_verdict_without_a_find_is_plain_data() -> None:
    """A search without a finding gives null."""
    plain = Verdict("some", broken=["search: nothing found"]).to_json()

    assert (plain["found_at"], plain["minimal"], plain["holds"]) == (None, None, False)
