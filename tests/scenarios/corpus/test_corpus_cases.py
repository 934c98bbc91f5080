"""Each case of the corpus keeps its claims, and the rules of its folder."""

import asyncio

import pytest

from muxleak_scenarios.corpus import CLASSES, STORY
from muxleak_scenarios.corpus.driver import perform_steps
from muxleak_scenarios.corpus.registry import load_cases
from muxleak_scenarios.corpus.verify import verify_case

CASES = load_cases()
EVERY = pytest.mark.parametrize("slug", CASES)


@EVERY
def test_claims_hold(slug: str) -> None:
    """The buggy variant and the wrong fixes fail as the facts say; the fixed variant does not."""
    assert verify_case(CASES[slug], fixed_sequences=200).broken == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 3))
@EVERY
def test_claims_hold_on_every_seed(slug: str, seed: int) -> None:
    """The search needs no lucky seed."""
    assert verify_case(CASES[slug], seed=seed).broken == []


@EVERY
def test_story_has_its_paragraphs(slug: str) -> None:
    """A README tells the same five things of each bug, in the same order."""
    case = CASES[slug]
    text = case.readme
    places = [text.find(f"\n**{each}** ") for each in STORY if each != "The sequence."]

    assert text.startswith("# ")
    if not case.is_control:
        assert -1 not in places, places
        assert places == sorted(places)
        assert "\n**The sequence.**" in text


@EVERY
def test_variants_run_on_a_plain_loop(slug: str) -> None:
    """Other tools run a variant without the simulation: it performs its minimal sequence there."""
    case = CASES[slug]

    async def main() -> list[BaseException]:
        driver = await perform_steps(case.fixed(second=1e-3), case.facts.minimal)
        return driver.errors

    assert asyncio.run(main()) == []


def test_fault_classes_are_known() -> None:
    """Classes are a closed list, so that tables can count by them."""
    assert {case.facts.fault for case in CASES.values() if not case.is_control} <= set(CLASSES)
