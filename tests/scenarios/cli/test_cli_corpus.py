"""``muxleak corpus``: the cases are listed, shown, run and proved."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from muxleak_scenarios.cli import cli
from muxleak_scenarios.corpus.registry import CorpusCase, load_cases
from muxleak_scenarios.corpus.verify import verify_case

MINIMAL = load_cases()["accept_backlog"].facts.minimal


def invoke(*words: str) -> tuple[int, str]:
    """Run the command; return its exit code and all that it printed."""
    done = CliRunner().invoke(cli, ["corpus", *words])
    return done.exit_code, done.output


def test_list_has_every_case() -> None:
    """As text and as data."""
    code, text = invoke("list")
    listed = json.loads(invoke("list", "--json")[1])

    assert code == 0
    assert all(slug in text for slug in load_cases())
    assert [each["case"] for each in listed] == list(load_cases())
    assert listed[0]["minimal"] == MINIMAL


def test_show_has_facts_story_and_diff() -> None:
    """The reader needs no other source."""
    code, text = invoke("show", "accept_backlog")
    data = json.loads(invoke("show", "accept_backlog", "--json")[1])

    assert code == 0
    assert "abandoned hand-off" in text
    assert "xtaci/smux" in text
    assert "+        dead = asyncio.ensure_future(self._dead.wait())" in text
    assert f"muxleak corpus run accept_backlog buggy '{MINIMAL}'" in text
    assert data["story"].startswith("# ")
    assert data["diff"].startswith("--- buggy.py")


@pytest.mark.parametrize(
    ("variant", "code", "violated"), [("buggy", 1, ["tasks"]), ("fixed", 0, [])]
)
def test_run_tells_the_variants_apart(variant: str, code: int, violated: list[str]) -> None:
    """Exit codes are those of all commands: 1 for a leak."""
    done, text = invoke("run", "accept_backlog", variant)
    data = json.loads(invoke("run", "accept_backlog", variant, MINIMAL, "--json")[1])

    assert done == code
    assert ("waits in Multiplexer._hand_over" in text) == bool(violated)
    assert data["violated"] == violated
    assert data["steps"] == MINIMAL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "accept_backlg"], "did you mean 'accept_backlog'?"),
        (["run", "accept_backlog", "bugy"], "expected one of buggy, fixed; got 'bugy'"),
        (["run", "accept_backlog", "buggy", "open nw:1"], "got 'nw:1'"),
        (["run", "accept_backlog", "buggy", "open new"], "expected a stream, as in new:1"),
        (["run", "accept_backlog", "buggy", "open:1"], "expected no stream, as in open"),
        (["run", "accept_backlog", "buggy", "new:9"], "a stream from 1 to 4"),
    ],
)
def test_slips_are_answered(words: list[str], message: str) -> None:
    """Bad usage is 2, and the message says what would have been right."""
    code, text = invoke(*words)

    assert code == 2
    assert message in text


def test_verify_proves_a_case() -> None:
    """As text and as data."""
    code, text = invoke("verify", "accept_backlog", "--sequences", "50")
    data = json.loads(invoke("verify", "accept_backlog", "--sequences", "50", "--json")[1])

    assert code == 0
    assert "1 of 1 cases hold" in text
    assert data["holds"]
    assert data["cases"][0]["violated"] == {"buggy": ["tasks"], "fixed": []}
    assert data["cases"][0]["found"]["buggy"]["minimal"] == MINIMAL


FALSE = {
    "another minimal sequence": ({"minimal": "open"}, "expected ('tasks',) on open, got ()"),
    "a property too many": ({"fails": ("tasks", "data")}, "expected ('tasks', 'data')"),
    "a gap": ({"needs": "gap"}, "needs: expected 'gap', found without gaps"),
}


@pytest.mark.parametrize("name", FALSE)
def test_false_claims_are_found(name: str) -> None:
    """Nothing that the facts say is believed."""
    change, message = FALSE[name]
    known = load_cases()["accept_backlog"]
    facts = replace(known.facts, **change)  # type: ignore[arg-type] # a claim of each type
    case = CorpusCase(known.slug, facts, known.buggy, known.fixed, {})

    broken = verify_case(case, fixed_sequences=20).broken

    assert any(message in line for line in broken), broken


def test_bug_in_the_fixed_variant_is_found() -> None:
    """The random sequences of a fixed variant are checked."""
    known = load_cases()["accept_backlog"]
    assert known.buggy is not None
    case = CorpusCase(known.slug, known.facts, known.buggy, known.buggy, {})

    broken = verify_case(case, fixed_sequences=200).broken

    assert any(line.startswith("fixed: expected clean, got ('tasks',)") for line in broken), broken
