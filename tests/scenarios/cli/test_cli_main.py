"""The program as a whole: help, usage, interrupts, and what importing the library costs."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios.cli import MODULES, cli, params, run
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
EXAMPLE = re.compile(r"^ +muxleak (?P<words>.+?)(?:  .*| \| .*)?$", re.MULTILINE)


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


def program(*words: str) -> "subprocess.Popen[str]":
    """Start the real program."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "harness", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", MODULES)
def test_help_fits_a_terminal_and_shows_examples(name: str) -> None:
    """Every command's help has examples of that command, within 80 columns."""
    result = invoke(name, "--help")

    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []
    assert [each["words"].split()[0] for each in EXAMPLE.finditer(result.stdout)].count(name) >= 2


@pytest.mark.parametrize("name", ["", *MODULES])
def test_help_shows_examples_that_parse(name: str) -> None:
    """Every example is accepted: its options exist and its arguments are what they should be."""
    text = invoke(*filter(None, [name]), "--help").stdout
    found = [shlex.split(each["words"]) for each in EXAMPLE.finditer(text)]

    assert found
    for command, *words in found:
        parsed = cli.get_command(click.Context(cli), command)
        assert parsed is not None
        parsed.make_context(command, words).close()


def test_help_names_every_command_on_a_line_of_its_own() -> None:
    """The summaries of the commands are shown whole, not cut off."""
    text = invoke("--help").stdout

    assert re.findall(r"^  (\w+)  +\S.*\.$", text, re.MULTILINE) == list(MODULES)
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "words",
    [
        ("fuzz", "REF", "--time"),
        ("serve", "--seconds"),
        *(
            ("hunt", "127.0.0.1:1", "--pid", "1", option)
            for option in ("--time", "--bandwidth", "--patience", "--idle")
        ),
    ],
    ids=" ".join,
)
def test_numbers_that_are_not_finite_are_refused(words: tuple[str, ...], number: str) -> None:
    """NaN is above and below nothing: a search for that long would never end."""
    result = invoke(*words, number)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "is not in the range" in result.stderr or "expected a finite number" in result.stderr


def test_every_option_that_takes_a_fraction_takes_finite_ones_only() -> None:
    """Those to come, too."""
    options = {
        f"{name} {option.opts[0]}": option.type
        for name in MODULES
        if (command := cli.get_command(click.Context(cli), name))
        for option in command.params
        if isinstance(option.type, type(click.FLOAT))
    }

    assert len(options) >= 6
    assert [name for name, kind in options.items() if not isinstance(kind, params.Finite)] == []


def test_help_tells_every_exit_code() -> None:
    """And so does the README."""
    told = invoke("--help").stdout.partition("Exit codes:")[2]
    readme = (
        (ROOT / "README.md").read_text("utf-8").partition("Exit codes:")[2].partition("\n\n")[0]
    )

    for text in (told, readme):
        assert re.findall(r"\b\d+\b", text) == ["0", "1", "2", "74", "130", "141"]


def test_version_is_printed() -> None:
    """The program tells its version."""
    result = invoke("--version")

    assert result.exit_code == 0
    assert result.stdout.startswith("muxleak ")


def test_program_returns_the_exit_code_of_a_command() -> None:
    """What the console script exits with is what the command decided."""
    assert run(["replay", "V1 a:open a:close"]) == 1
    assert run(["replay", "fixed a:open a:close"]) == 0
    assert run(["--version"]) == 0


def test_program_tells_bad_usage_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command is bad usage: exit code 2 and a message on stderr."""
    assert run(["frobnicate"]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "frobnicate" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.slow
@pytest.mark.parametrize("lines", range(1, 5))
def test_interrupt_ends_the_program_at_once(lines: int) -> None:
    """Ctrl-C, wherever it finds a proof, is one line on stderr and exit code 130."""
    with program("verify", "--sequences", "1") as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)

    assert process.returncode == 130
    assert stderr == "interrupted\n"


def test_harness_imports_neither_its_command_line_nor_what_that_needs() -> None:
    """Whoever imports the library pays for nothing else."""
    heavy = ("click", "rich", "hypothesis", "vless", "scenarios", "muxleak_scenarios.cli")
    code = f"import sys, muxleak; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"
