"""``muxleak bench``: what it prints, what it takes, and the whole run of the real program."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios.bench import ROWS
from muxleak_scenarios.bench.measure import (
    LEAKS,
    MAX_LEAKS,
    ROUNDS,
    BenchPlan,
    Beside,
    Comparison,
    Rounds,
)
from muxleak_scenarios.bench.sequence import SEQUENCE, Part
from muxleak_scenarios.cli import bench, cli
from muxleak_scenarios.cli.bench import figure, short
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
COMPARED = [
    Comparison(
        "a thing done",
        (3e-4, 1e-4, 2e-4),
        (
            Beside("a slow one", (4e-3,), goal=25, note="by the wall clock"),
            Beside("the limit", (1e-4,), floor=True, goal=4),
            Beside("a peer", note="not installed: pip install peer==1.0"),
        ),
        note="one run",
    ),
    Comparison("its size", (2500.0,), unit="B", goal=2200),
    Comparison("a schedule", (0.0005,), (Beside("other", (0.001,)),), unit="/s"),
]
every_signal = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> dict[str, BenchPlan]:
    """The plans by which the command measures; nothing is measured."""
    asked: dict[str, BenchPlan] = {}

    def measured(name: str, plan: BenchPlan) -> list[Comparison]:
        asked[name] = plan
        plan.tick()
        return COMPARED

    def breakdown(plan: BenchPlan) -> tuple[Rounds, list[Part]]:
        asked["breakdown"] = plan
        return (4e-4, 4e-4), [Part("one variant", 1e-4), Part("the other", 3e-4)]

    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "measure_apart", measured)
    monkeypatch.setattr(bench, "breakdown", breakdown)
    return asked


def test_bench_prints_ours_beside_its_baselines(plans: dict[str, BenchPlan]) -> None:
    """Figure, ratio and what became of the goal, line by line; what is missing says how to get."""
    result = invoke("bench", "sequence")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]

    assert result.exit_code == 0
    assert list(plans) == ["sequence"]
    assert lines[lines.index(f"sequence {ROWS['sequence'].title}") + 1 :] == [
        "a thing done 200 µs",
        "one run",
        "a slow one 4.00 ms 20.0x less ≥ 25x missed",
        "by the wall clock",
        "the limit 100 µs 2.00x of it ≤ 4x met",
        "a peer: not installed: pip install peer==1.0",
        "its size 2,500 B ≤ 2,200 B missed",
        "a schedule 2,000/s",
        "other 1,000/s 2.00x less",
        "",
    ]
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_bench_fits_the_terminal(plans: dict[str, BenchPlan], columns: int) -> None:
    """The figures stand below the name where they do not fit beside it."""
    assert plans == {}
    result = CliRunner().invoke(cli, ["bench", "sequence"], env={"COLUMNS": str(columns)})
    lines = result.stdout.splitlines()

    assert [line for line in lines if len(line) > columns] == []
    assert "≤ 2,200 B missed" in " ".join(result.stdout.split())
    ends = {
        line.index(value) + len(value)
        for line in lines
        for value in ("100 µs", "4.00 ms")
        if value in line
    }
    assert len(ends) == 1


def test_bench_measures_every_row_by_default(plans: dict[str, BenchPlan]) -> None:
    """In the order of the table, each once."""
    assert invoke("bench").exit_code == 0
    assert list(plans) == list(ROWS)
    assert {plan[:3] for plan in plans.values()} == {(ROUNDS, False, LEAKS)}


def test_bench_measures_a_row_that_is_named_twice_once(plans: dict[str, BenchPlan]) -> None:
    """The order is that of the words."""
    found = json.loads(invoke("bench", "frame", "check", "frame", "--json").stdout)

    assert list(plans) == ["frame", "check"]
    assert [each["row"] for each in found["rows"]] == ["frame"] * 3 + ["check"] * 3


def test_bench_json_is_everything_and_nothing_else(plans: dict[str, BenchPlan]) -> None:
    """Where it was measured, and every figure with its rounds, ratio and goal."""
    data = json.loads(invoke("bench", "task", "--json").stdout)
    row, size, rate = data["rows"]

    assert plans
    assert set(data) == {"python", "machine", "cpus", "rounds", "quick", "rows"}
    assert (data["rounds"], data["quick"]) == (ROUNDS, False)
    assert (row["row"], row["what"], row["unit"]) == ("task", "a thing done", "s")
    assert (row["ours"], row["rounds"]) == (2e-4, [3e-4, 1e-4, 2e-4])
    assert row["beside"][0] == {
        "name": "a slow one",
        "value": 4e-3,
        "rounds": [4e-3],
        "ours_costs": "less",
        "ratio": 20.0,
        "goal": 25,
        "met": False,
        "note": "by the wall clock",
    }
    assert [each["ours_costs"] for each in row["beside"]] == ["less", "more", None]
    assert (size["unit"], size["goal"], size["met"]) == ("B", 2200, False)
    assert (rate["unit"], rate["ours"]) == ("s", 0.0005)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rounds", "3"], (3, False, LEAKS)),
        (["--quick"], (1, True, bench.QUICK_LEAKS)),
        (["--quick", "--leaks", "5000"], (1, True, 5000)),
        (["--leaks", str(MAX_LEAKS)], (ROUNDS, False, MAX_LEAKS)),
    ],
)
def test_bench_options_make_the_plan(
    plans: dict[str, BenchPlan], words: list[str], expected: tuple[int, bool, int]
) -> None:
    """Rounds, size and the number of leaks are as asked."""
    assert invoke("bench", "leaked", *words).exit_code == 0
    assert plans["leaked"][:3] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "'nothing' is not one of 'sequence', 'example', 'check'"),
        (["sequence", "nothing"], "'nothing' is not one of"),
        (["--rounds", "0"], "must be a whole number of at least 1, got 0"),
        (["--leaks", "350001"], "must be a whole number from 100 to 350,000, got 350001"),
        (["--leaks", "99"], "from 100 to 350,000, got 99"),
        (["--profile", "frame"], "expected no ROW"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(words: list[str], message: str) -> None:
    """Bad usage is exit code 2, and says what was expected."""
    result = invoke("bench", *words)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_bench_tells_of_a_row_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fails is exit code 1 and a line, as a claim that does not hold."""

    def failing(name: str, _plan: BenchPlan) -> list[Comparison]:
        raise RuntimeError(f"measuring {name!r} failed: exit code 1")

    monkeypatch.setattr(bench, "measure_apart", failing)
    result = invoke("bench", "leaked")

    assert result.exit_code == 1
    assert result.stderr == "Error: measuring 'leaked' failed: exit code 1\n"


def test_bench_profile_shows_the_parts_and_the_whole(plans: dict[str, BenchPlan]) -> None:
    """Each with its share, and the sequence that was taken apart."""
    result = invoke("bench", "--profile", "--rounds", "2")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]

    assert result.exit_code == 0
    assert plans["breakdown"].rounds == 2
    assert "one variant 100 µs 25%" in lines
    assert "the other 300 µs 75%" in lines
    assert "a checked sequence 400 µs 100%" in lines
    assert str(SEQUENCE) in " ".join(lines)
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []


def test_bench_profile_json_has_the_parts(plans: dict[str, BenchPlan]) -> None:
    """The same as data, in seconds."""
    data = json.loads(invoke("bench", "--profile", "--json").stdout)

    assert plans
    assert data["seconds"] == 4e-4
    assert data["parts"][0] == {"part": "one variant", "seconds": 1e-4}
    assert data["sequence"] == str(SEQUENCE)


def test_bench_help_lists_every_row() -> None:
    """With what each is about."""
    text = invoke("bench", "--help").stdout
    listed = dict(re.findall(r"^    (\w+) +(\S.*)$", text.partition("Rows:")[2], re.MULTILINE))

    assert {name: listed.get(name) for name in ROWS} == {
        name: row.title for name, row in ROWS.items()
    }


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (7.16e-8, "s", "71.6 ns"),
        (1e-6, "s", "1.00 µs"),
        (0.000452, "s", "452 µs"),
        (0.01196, "s", "12.0 ms"),
        (17.4, "s", "17.4 s"),
        (-2e-6, "s", "-2.00 µs"),
        (0.0, "s", "0.00 ns"),
        (4357.4, "B", "4,357 B"),
        (1 / 3640, "/s", "3,640/s"),
    ],
)
def test_figures_have_three_digits_and_a_unit(value: float, unit: str, text: str) -> None:
    """Small and large ones; bytes in full."""
    assert figure(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.994, "0.994"), (1.0, "1.00"), (25.84, "25.8"), (378341.0, "378,000")]
)
def test_ratios_have_three_digits(value: float, text: str) -> None:
    """And no more, since no more can be relied on."""
    assert short(value) == text


def program(*words: str) -> "subprocess.Popen[str]":
    """Start the real program."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", "bench", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_bench_quick_measures_everything() -> None:
    """For real: every row has a figure, and a baseline beside it unless it is a peer's."""
    with program("--quick", "--json") as process:
        stdout, stderr = process.communicate(timeout=60)
    data = json.loads(stdout)
    rows = data["rows"]

    assert (process.returncode, stderr) == (0, "")
    assert list(dict.fromkeys(each["row"] for each in rows)) == list(ROWS)
    assert [each["what"] for each in rows if not each["ours"] > 0] == []
    for each in rows:
        for beside in each["beside"]:
            if beside["value"] is None:
                assert "not installed" in beside["note"]
            else:
                assert beside["ratio"] > 0


@pytest.mark.slow
@every_signal
def test_bench_is_interrupted_at_once(number: signal.Signals) -> None:
    """A signal is one line and exit code 130."""
    with program("sequence", "--rounds", "1000") as process:
        assert process.stdout is not None
        # Its first line comes before anything is measured.
        process.stdout.readline()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=10)

    assert process.returncode == 130
    assert stderr == "interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks at processes as Linux shows them")
@every_signal
def test_bench_leaves_no_process_when_interrupted(number: signal.Signals) -> None:
    """A row in a process of its own: that ends too, soon and without a word."""
    with program("leaked", "--leaks", "350000") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 10
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline, "no process was started"
        child = os.pidfd_open(int(found[0]))
        process.send_signal(number)
        ended, _, _ = select.select([child], [], [], 20)
        os.close(child)
        # Its stderr is that of the program: all that both have said.
        _, stderr = process.communicate(timeout=10)

    assert ended
    assert process.returncode == 130
    assert stderr == "interrupted\n"
