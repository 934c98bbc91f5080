"""Every pair: its claims, each proved here; a new pair needs no edit."""

import inspect
import re
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings

from muxleak_scenarios import (
    PROPERTIES,
    Pair,
    Sequence,
    SimTarget,
    Target,
    TcpTarget,
    find_violation,
    load_pairs,
    run_sequence,
)
from muxleak_scenarios import sequences as some_sequences
from muxleak_scenarios.pairs.check import check_sequence
from muxleak_scenarios.pairs.verify import SEARCH_EXAMPLES
from muxleak_scenarios.sequence.decoder import WIDTH, decode
from muxleak_vless import Lifecycle

NewTarget = Callable[[Lifecycle], Target]
MAX_DIFF = 15
README_WIDTH, DRAWING_WIDTH = 100, 78
"""A drawing must fit a terminal of 80 columns with the margin of ``muxleak show``."""
PARTS = ["What users saw", "The sequence", "The wrong answer", "The right answer", "History"]
DRAWN = {
    "open": r"-- header ",
    "bad": r"-- header,",
    "new": r"-- New {stream}\b",
    "data": r"-- Keep {stream}\b",
    "end": r"-- End {stream}\b",
    "padding": r"-- KeepAlive",
    "junk": r"-- New 1, {what} ",
    "close": r"-- close ",
}
"""A pattern for each verb, as a drawing shows its step; of other verbs it shows the name."""

PAIRS = pytest.mark.parametrize("pair", load_pairs().values(), ids=list(load_pairs()))


def answers(variant: type[Lifecycle]) -> dict[str, object]:
    """Return the questions that a variant answers itself."""
    return {name: each for name, each in vars(variant).items() if not name.startswith("__")}


def settled(sequence: Sequence) -> Sequence:
    """Return the same steps, with settling after each."""
    return Sequence(step._replace(gap=None) for step in sequence)


@PAIRS
def test_pair_variants_differ_in_one_answer(pair: Pair) -> None:
    """Both variants are the reference but for one method, the same in both."""
    question = pair.facts.question
    buggy, fixed = answers(pair.buggy), answers(pair.fixed)

    assert list(buggy) == list(fixed) == [question]
    assert pair.buggy.__name__ == pair.fixed.__name__
    assert pair.buggy.__bases__ == pair.fixed.__bases__ == (Lifecycle,)
    assert inspect.signature(getattr(pair.buggy, question)) == inspect.signature(
        getattr(Lifecycle, question)
    )
    assert inspect.getsource(getattr(pair.buggy, question)) != inspect.getsource(
        getattr(pair.fixed, question)
    )


@PAIRS
def test_pair_fixed_variant_is_the_reference_word_for_word(pair: Pair) -> None:
    """The fixed method cannot drift from the reference."""
    ours, reference = (
        inspect.getsource(getattr(each, pair.facts.question)) for each in (pair.fixed, Lifecycle)
    )

    assert ours == reference


@PAIRS
def test_pair_diff_is_short(pair: Pair) -> None:
    """The diff shows only the mistake: imports are equal, nothing is re-indented."""
    buggy, fixed = (pair.source(variant).splitlines() for variant in ("buggy", "fixed"))
    imports = [
        [line for line in variant if line.startswith(("import ", "from ", "    from "))]
        for variant in (buggy, fixed)
    ]
    changed = [line for line in pair.diff().splitlines()[2:] if line.startswith(("+", "-"))]

    assert imports[0] == imports[1]
    assert 0 < len(changed) <= MAX_DIFF


def flaws(readme: str, minimal: Sequence) -> list[str]:
    """Return the faults of a pair's README."""
    found = []
    if not re.match(r"# \S.*\n\n\*\*", readme):
        found.append("expected a heading, then the first part")
    if any(len(line) > README_WIDTH for line in readme.splitlines()):
        found.append(f"expected lines of at most {README_WIDTH} columns")
    parts = re.split(r"^\*\*(.+)\.\*\*", readme, flags=re.MULTILINE)[1:]
    if parts[::2] != PARTS:
        return [*found, f"expected the parts {PARTS}, got {parts[::2]}"]
    texts = dict(zip(PARTS, parts[1::2], strict=True))
    found += [f"{name}: expected text" for name, text in texts.items() if not text.strip()]
    fenced = re.fullmatch(r"\s*```\n(.+)\n```\s*", texts["The sequence"], re.DOTALL)
    if fenced is None or readme.count("```") > 2:
        return [*found, "expected one drawing, as the whole of the sequence"]
    drawing = fenced[1].splitlines()
    if drawing[0].split()[:2] != ["client", "server"]:
        found.append("expected the columns client and server")
    if any(len(line) > DRAWING_WIDTH for line in drawing):
        found.append(f"expected a drawing of at most {DRAWING_WIDTH} columns")
    lines = iter(drawing)
    for step in minimal:
        shown = DRAWN.get(step.verb, rf"\b{step.verb}\b").format(stream=step.stream, what=step.what)
        if not any(re.search(shown, line) for line in lines):
            return [*found, f"expected the step {step} in its order"]
    return found


@PAIRS
def test_pair_has_facts_and_a_readme(pair: Pair) -> None:
    """Facts name properties that exist; the README has all parts and draws the minimal sequence."""
    assert pair.facts.title
    assert pair.facts.symptom
    assert pair.facts.references
    assert set(pair.facts.fails) <= set(PROPERTIES)
    assert pair.facts.fails
    assert flaws(pair.readme, pair.minimal) == []


@PAIRS
def test_pair_readme_needs_each_part(pair: Pair) -> None:
    """Each part that is removed from a README is missed."""
    readme, minimal = pair.readme, pair.minimal
    lines = readme.splitlines(keepends=True)
    drawn = lines.index("```\n")

    assert flaws(lines[0], minimal)
    assert flaws("".join(lines[2:]), minimal)
    assert flaws(readme.replace("```\n", ""), minimal)
    assert flaws("".join(lines[: drawn + 1] + lines[drawn + 2 :]), minimal)
    assert flaws("".join(line for line in lines if " header" not in line), minimal)
    assert flaws(readme, Sequence([*minimal, minimal[0]]))
    for part in PARTS:
        assert flaws(readme.replace(f"**{part}.**", part), minimal)


@PAIRS
def test_pair_minimal_sequence_is_canonical(pair: Pair) -> None:
    """The minimal sequence is in canonical form, as findings are."""
    assert str(pair.minimal.canonical()) == str(pair.minimal) == pair.facts.minimal


@PAIRS
def test_pair_minimal_sequence_distinguishes_the_variants(pair: Pair, target: NewTarget) -> None:
    """At every target, the buggy variant breaks the claimed properties, the fixed one none."""
    unseen = set() if target is SimTarget else set(TcpTarget.unobservable)
    if target not in {SimTarget, TcpTarget}:
        # What lasts one iteration of asyncio's loop does not on uvloop's.
        unseen.add("bounds")
    seen = [name for name in pair.facts.fails if name not in unseen]
    fixed = run_sequence(pair.minimal, pair.fixed(), target)

    if seen:
        assert list(run_sequence(pair.minimal, pair.buggy(), target).violated) == seen
    assert fixed.violations == []
    assert fixed.left_after_end == 0


@PAIRS
def test_pair_minimal_sequence_is_needed_whole(pair: Pair) -> None:
    """Without any one of its steps but the last close, the minimal sequence shows nothing.

    The last close is made up for at the end of every run.
    """
    minimal = pair.minimal
    for at in range(len(minimal) - 1):
        shorter = Sequence(minimal[:at] + minimal[at + 1 :])
        if any(step.verb == "open" for step in shorter[:1]):
            assert run_sequence(shorter, pair.buggy()).violated != pair.facts.fails


@PAIRS
def test_pair_needs_a_gap_exactly_if_it_says_so(pair: Pair) -> None:
    """With settling after every step, the minimal sequence of such a pair shows nothing."""
    violated = run_sequence(settled(pair.minimal), pair.buggy()).violated

    assert (violated == ()) is pair.facts.needs_gap


@pytest.mark.slow
@pytest.mark.parametrize("pair", [each for each in load_pairs().values() if each.facts.needs_gap])
def test_pair_that_needs_a_gap_is_never_found_without(pair: Pair) -> None:
    """No other sequence with settling after every step shows anything either."""

    @settings(max_examples=1000, deadline=None)
    @given(some_sequences())
    def holds(sequence: Sequence) -> None:
        assert run_sequence(settled(sequence), pair.buggy()).violations == []

    holds()


@PAIRS
def test_pair_is_found_among_random_sequences(pair: Pair) -> None:
    """Some random sequences, drawn without the minimal one, break the claimed properties."""
    random = Random(7)
    scripts = (random.randbytes(WIDTH * 60) for _ in range(1500))
    outcomes = (run_sequence(decode(script), pair.buggy()) for script in scripts)

    assert any(set(outcome.violated) & set(pair.facts.fails) for outcome in outcomes)


@pytest.mark.slow
@PAIRS
def test_pair_is_found_and_shrunk_from_another_seed(pair: Pair) -> None:
    """The search finds the bug as `muxleak verify` does, and shrinks it to a sequence no longer."""
    fails = frozenset(pair.facts.fails)
    found = find_violation(pair.buggy, properties=fails, examples=SEARCH_EXAMPLES, seed=1)

    assert found is not None
    assert len(found.outcome.sequence) <= len(pair.minimal)
    assert set(found.outcome.violated) & set(pair.facts.fails)


@PAIRS
def test_pair_fixed_variant_holds(pair: Pair) -> None:
    """No property fails on anything that is generated."""

    @settings(max_examples=15, deadline=None)
    @given(some_sequences())
    def holds(sequence: Sequence) -> None:
        check_sequence(sequence, pair.fixed)

    holds()
