"""``muxleak soak``: what it prints, and how it exits."""

import json
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from muxleak_scenarios.cli import cli, interrupt

WORDS = ("soak", "--connections", "60")


def test_soak_is_clean_for_the_reference() -> None:
    """A row for each tenth, and the verdict."""
    result = CliRunner().invoke(cli, WORDS)

    assert result.exit_code == 0
    verdict = result.stdout.splitlines()[-1]
    assert verdict.startswith("ok  ")
    assert verdict.endswith(" connections, every property held; memory flat")


def test_soak_json_has_every_tenth() -> None:
    """Plain data, and nothing else."""
    data = json.loads(CliRunner().invoke(cli, [*WORDS, "--json"]).stdout)

    assert (data["subject"], data["target"], data["flat"]) == ("REF", "simulated", True)
    assert len(data["tenths"]) == 10
    assert data["connections"] >= 60
    assert data["stopped"] is False


def test_soak_that_is_stopped_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After how many of how many; it is not "ok", and the exit code is that of Ctrl-C."""
    monkeypatch.setattr(interrupt, "caught", lambda: nullcontext(lambda: True))
    shown = CliRunner().invoke(cli, WORDS)
    data = json.loads(CliRunner().invoke(cli, [*WORDS, "--json"]).stdout)

    ran = data["connections"]
    assert 0 < ran < 60
    assert shown.exit_code == interrupt.CODE
    assert shown.stdout.splitlines()[-1] == (
        f"stopped after {ran} of 60 connections, every property held; memory flat"
    )
    assert data["stopped"] is True


def test_soak_tells_the_line_that_violates() -> None:
    """Exit 1, and a command that runs that sequence again."""
    result = CliRunner().invoke(cli, ["soak", "V1", "--connections", "1000"])

    assert result.exit_code == 1
    assert "violated: " in result.stdout
    assert "muxleak replay 'V1 " in result.stdout


def test_soak_refuses_what_it_does_not_know() -> None:
    """Bad usage, with what was expected."""
    result = CliRunner().invoke(cli, ["soak", "V9"])

    assert result.exit_code == 2
    assert "expected a pair" in result.stderr


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_soak_fits_the_terminal(columns: int) -> None:
    """No row is wider, and no figure is cut off."""
    result = CliRunner().invoke(cli, WORDS, env={"COLUMNS": str(columns)})
    lines = result.stdout.splitlines()

    assert [line for line in lines if len(line) > columns] == []
    assert "…" not in result.stdout
    assert len({line.index(" objects") for line in lines if " objects" in line}) <= 2
