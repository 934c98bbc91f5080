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

from muxleak import extras
from muxleak_scenarios.cli import COMMANDS, cli, lazy_group, params, run, self_group
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
NAMES = [*COMMANDS, *(f"self {name}" for name in self_group.COMMANDS)]
"""Every command, with the group that it is in."""
EXAMPLE = re.compile(r"^ +muxleak (?P<words>.+?)(?:  .*| \| .*)?$", re.MULTILINE)


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


def find(name: str) -> click.Command:
    """Return a command by its name, such as "self mutants"."""
    found: click.Command = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        command = found.get_command(click.Context(found), word)
        assert command is not None
        found = command
    return found


def program(*words: str) -> "subprocess.Popen[str]":
    """Start the real program."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_a_terminal_and_shows_examples(name: str) -> None:
    """Every command's help has examples of that command, within 80 columns."""
    result = invoke(*name.split(), "--help")
    examples = [each["words"] for each in EXAMPLE.finditer(result.stdout)]

    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []
    assert sum(f"{words} ".startswith(f"{name} ") for words in examples) >= 2


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_shows_examples_that_parse(name: str) -> None:
    """Every example is accepted: its options exist and its arguments are what they should be."""
    text = invoke(*name.split(), "--help").stdout
    found = [shlex.split(each["words"]) for each in EXAMPLE.finditer(text)]

    assert found
    for words in found:
        names = 2 if words[0] == "self" else 1
        find(" ".join(words[:names])).make_context(name, words[names:]).close()


def test_help_names_every_command_on_a_line_of_its_own() -> None:
    """The summaries of the commands are shown whole, not cut off."""
    text = invoke("--help").stdout

    assert re.findall(r"^  (\w+)  +\S.*\.$", text, re.MULTILINE) == list(COMMANDS)
    assert "..." not in text.partition("See a known leak:")[2]


def test_help_lists_the_commands_in_columns_that_stay() -> None:
    """The summaries of all sections begin in the same column."""
    text = invoke("--help").stdout
    rows = re.finditer(r"^(  \w+ +)\S.*\.$", text, re.MULTILINE)

    assert len({len(row[1]) for row in rows}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_summary_is_the_first_sentence_of_the_help(name: str) -> None:
    """The table that spares the imports says what the commands say."""
    *groups, last = name.split()
    group = find(" ".join(groups))
    assert isinstance(group, lazy_group.LazyGroup)

    text = find(name).help or ""
    assert group.lazy[last].summary == " ".join(text.partition("\n\n")[0].split())
    assert len(group.lazy[last].summary) <= 66


def imported(code: str) -> set[str]:
    """Return the modules that a new process has imported when it has run a program."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["self", "--help"]], ids=" ".join)
def test_help_imports_no_command(words: list[str]) -> None:
    """To list the commands takes none of what they need."""
    loaded = imported(f"from muxleak_scenarios.cli import run; run({words!r})")

    assert "muxleak_scenarios.cli.lazy_group" in loaded
    if words[0] == "self":
        commands = {"muxleak_scenarios.cli.verify", "muxleak_scenarios.cli.mutants"}
        assert commands.isdisjoint(loaded)
        return
    assert loaded.isdisjoint({"rich", "hypothesis", "asyncio", "logging", "importlib.metadata"})
    assert {name for name in loaded if name.startswith("muxleak")} == {
        "muxleak",
        "muxleak.lazy",
        "muxleak_scenarios",
        "muxleak_scenarios.cli",
        "muxleak_scenarios.cli.interrupt",
        "muxleak_scenarios.cli.lazy_group",
        "muxleak_scenarios.cli.stdout",
    }


def test_reproduce_prints_its_first_line_before_hypothesis_is_imported() -> None:
    """The facts of the pair are there at once; the search is what Hypothesis is for."""
    loaded = imported(
        "from muxleak_scenarios import find_pair;"
        "from muxleak_scenarios.cli import render, reproduce;"
        "reproduce.show_opening(render.stdout(), find_pair('2421'))"
    )

    assert "muxleak_scenarios.cli.reproduce" in loaded
    assert loaded.isdisjoint({"hypothesis", "grpc", "pytest", "importlib.metadata"})


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_terminals_of_other_widths(name: str, columns: int) -> None:
    """But for lines that are there to be copied, and their like."""
    result = CliRunner().invoke(cli, [*name.split(), "--help"], env={"COLUMNS": str(columns)})
    text = re.split(r"^  (?:Examples|Exit codes|Rows):$", result.stdout, flags=re.MULTILINE)[0]

    assert [line for line in text.splitlines() if len(line) > columns] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["reproduec"], "got 'reproduec'; did you mean 'reproduce'?"),
        (["hnut", "--help"], "got 'hnut'; did you mean 'hunt'?"),
        (["self", "mutant"], "got 'mutant'; did you mean 'mutants'?"),
        (["frobnicate"], "expected one of reproduce, list, "),
        (["show", "wacher_outlives_connection"], "did you mean 'watcher_outlives_connection'?"),
        (["verify", "live_id_resued"], "did you mean 'live_id_reused'?"),
        (["reproduce", "flagshp"], "got 'flagshp'"),
        (["serve", "--version", "fixd"], "got 'fixd'"),
        (["fuzz", "silent_peer/bugy"], "got 'bugy'; did you mean 'buggy'?"),
        (["show", "w"], "which begins watcher_outlives_connection and write_without_limit"),
    ],
    ids=str,
)
def test_unknown_names_are_answered_with_the_nearest(words: list[str], says: str) -> None:
    """Of commands, pairs and variants; exit code 2."""
    result = invoke(*words)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["show", "flagship"],
        ["show", "live_id", "--json"],
        ["replay", "late/fixed a:open a:close"],
        ["verify", "2421", "--help"],
    ],
    ids=" ".join,
)
def test_beginning_of_a_pair_is_enough(words: list[str]) -> None:
    """Wherever a pair is taken."""
    assert invoke(*words).exit_code == 0


def test_summaries_are_cut_in_no_narrow_terminal() -> None:
    """Even where names and summaries do not fit side by side."""
    text = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "40"}).stdout

    for entry in COMMANDS.values():
        assert entry.summary in " ".join(text.split())


def completed(text: str) -> list[str]:
    """Return the completions of a command line in bash."""
    env = {"_MUXLEAK_COMPLETE": "bash_complete", "COMP_WORDS": text}
    env["COMP_CWORD"] = str(len(text.split(" ")) - 1)
    result = CliRunner().invoke(cli, prog_name="muxleak", env=env)
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("muxleak re", ["reproduce", "replay"]),
        ("muxleak ", list(COMMANDS)),
        ("muxleak self ", list(self_group.COMMANDS)),
        ("muxleak show wa", ["watcher_outlives_connection"]),
        ("muxleak verify live_id_reused si", ["silent_peer"]),
        ("muxleak fuzz v", ["V0", "V1", "V2"]),
        ("muxleak replay late", ["late_removal"]),
        ("muxleak replay late_removal/", ["late_removal/buggy", "late_removal/fixed"]),
        ("muxleak serve --version silent_peer/f", ["silent_peer/fixed"]),
        ("muxleak serve --version P", ["P-A", "P-B", "P-C", "padding_kills_connection"]),
        ("muxleak soak fix", ["fixed"]),
        ("muxleak soak late/", ["late/buggy", "late/fixed"]),
        ("muxleak replay found.t", ["found.t"]),
        ("muxleak replay V1 a", []),
        ("muxleak bench fr", ["frame"]),
        ("muxleak list --j", ["--json"]),
    ],
)
def test_shell_completes_commands_pairs_and_versions(text: str, found: list[str]) -> None:
    """As bash asks for them, through click's own protocol."""
    assert sorted(completed(text)) == sorted(found)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_gets_its_script(shell: str) -> None:
    """The line of the documentation that turns completion on prints a script."""
    code = "import sys; sys.argv[0] = 'muxleak'; from muxleak_scenarios.cli import main; main()"
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "_MUXLEAK_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert f"_MUXLEAK_COMPLETE={shell}_complete" in done.stdout


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
    assert "must be a finite number " in result.stderr


def test_every_option_that_takes_a_fraction_takes_finite_ones_only() -> None:
    """Those to come, too."""
    options = {
        f"{name} {option.opts[0]}": option.type
        for name in NAMES
        for option in find(name).params
        if isinstance(option.type, type(click.FLOAT))
    }

    assert len(options) >= 6
    assert [name for name, kind in options.items() if not isinstance(kind, params.Finite)] == []


def test_every_option_with_bounds_names_them() -> None:
    """The message about a number out of range has the bounds in words."""
    options = {
        f"{name} {option.opts[0]}": option.type
        for name in NAMES
        for option in find(name).params
        if isinstance(option.type, click.IntRange | click.FloatRange)
    }

    assert len(options) >= 15
    assert not [
        name for name, kind in options.items() if not isinstance(kind, params.Whole | params.Finite)
    ]


def test_help_tells_every_exit_code() -> None:
    """The help and the documentation list the same codes."""
    help_text = invoke("--help").stdout.partition("Exit codes:")[2]
    page = (ROOT / "docs/command-line.md").read_text("utf-8")
    section = page.partition("## Exit codes")[2].partition("\n## ")[0]
    codes = ["0", "1", "2", "74", "75", "130", "141"]

    assert re.findall(r"\b\d+\b", help_text) == codes
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == codes


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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_ends_the_program_at_once(number: signal.Signals, lines: int) -> None:
    """A signal, wherever it finds a proof, is one line on stderr and exit code 130."""
    with program("verify", "--sequences", "1") as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=10)

    assert process.returncode == 130
    assert stderr == "interrupted\n"


def test_harness_imports_neither_its_command_line_nor_what_that_needs() -> None:
    """Whoever imports the library pays for nothing else."""
    loaded = imported("import muxleak")

    assert {name for name in loaded if name.startswith("muxleak")} == {"muxleak", "muxleak.lazy"}
    assert loaded.isdisjoint({"asyncio", "click", "rich", "hypothesis", "logging"})


@pytest.mark.parametrize(
    "words", [["reproduce"], ["verify"], ["bench"]], ids=lambda words: words[0]
)
def test_command_says_that_hypothesis_is_missing(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it prints or measures anything, with the command that installs it."""
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    result = CliRunner().invoke(cli, words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("which is an extra: pip install 'muxleak[fuzz]'\n")
