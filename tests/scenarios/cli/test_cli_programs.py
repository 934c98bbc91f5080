"""``muxleak fuzz module:callable`` and ``muxleak replay`` of what it found."""

import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from muxleak.search import Progress, find_leaks
from muxleak.search.subject import Decisions
from muxleak.sim import Replay
from muxleak.sim.fresh_process import Difference
from muxleak_scenarios.cli import cli, fuzz_program, interrupt, programs
from muxleak_scenarios.cli import replay_program as cli_replay
from source_roots import PYTHONPATH

ROOT = Path(__file__).parents[3]
FILE = "muxleak-victim-main.sim.json"
VICTIM = '''
import asyncio
import os
import signal
import sys

from muxleak.sim import current, simulated

FIXED = False
runs = iter(range(1_000_000))

async def forever():
    await asyncio.get_running_loop().create_future()

async def main():
    """Leaks the third connection."""
    print("main runs")
    opened = 0
    while current().choices.below(3):
        opened += 1
        current().step(f"open {opened}")
        if opened == 3 and not FIXED:
            _ = asyncio.get_running_loop().create_task(forever())
        await current().gap()

async def fine():
    await asyncio.sleep(1)

async def order():
    seen = []
    async def note(number):
        seen.append(number)
    await asyncio.gather(note(1), note(2))
    assert seen == [1, 2]

async def thread():
    await asyncio.to_thread(print)

async def swallows():
    try:
        await asyncio.to_thread(print)
    except Exception:
        pass

async def leaves():
    sys.exit(3)

async def chance():
    assert next(runs) != 3

async def interrupted():
    if next(runs) == 2:
        os.kill(os.getpid(), signal.SIGINT)

@simulated(leaks=False)
async def interrupted_later():
    """Fails at once; Ctrl-C falls into the shrinking."""
    if next(runs) == 2:
        os.kill(os.getpid(), signal.SIGINT)
    draws = [current().choices.below(200) for _ in range(40)]
    assert sum(draws) < 100

async def many_steps():
    for number in range(current().choices.below(200)):
        current().step(f"step {number}")
    assert len(current().steps) < 40

async def hashes():
    for name in {"a", "b", "c", "d"}:
        await asyncio.sleep(ord(name))
        await asyncio.create_task(fine())

class Session:
    pass

async def identities():
    sessions = [Session() for _ in range(12)]
    for session in set(sessions):
        await asyncio.sleep(1 + sessions.index(session))
        await asyncio.create_task(fine())

async def slow():
    current().step("ask")
    async with current().operation("request"):
        await asyncio.sleep(301)

async def leaks_by_identity():
    await identities()
    asyncio.create_task(forever())

async def waits():
    await forever()

async def blocks():
    await asyncio.sleep(0)
    while True:
        pass

def plain():
    """No program."""

async def takes(host):
    """None either."""
'''


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


def line_of(text: str) -> str:
    """Where the program has a line with that text."""
    lines = VICTIM.splitlines()
    return f"victim.py:{next(n for n, line in enumerate(lines, 1) if text in line)}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a program in it; it is not on the path yet."""
    (tmp_path / "victim.py").write_text(VICTIM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if not name.startswith("muxleak"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def repeatable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast tests start no fresh process that repeats the finding."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(fuzz_program, "difference", lambda *_, **__: None)


@pytest.mark.slow
def test_fuzz_program_says_whether_a_fresh_process_repeats_the_run() -> None:
    """A finding that depends on more than the decisions is named so, with the cause."""
    good, bad = (invoke("fuzz", f"victim:{name}") for name in ("main", "leaks_by_identity"))
    data = [
        json.loads(invoke("fuzz", f"victim:{name}", "--json").stdout)
        for name in ("main", "leaks_by_identity")
    ]

    assert (good.exit_code, bad.exit_code) == (1, 1)
    assert "fresh process" not in good.stdout
    text = " ".join(bad.stdout.split())
    assert "not the same run in a fresh process: the program depends on object identity" in text
    assert [(each["repeatable"], each["differs_by"]) for each in data] == [
        (True, None),
        (False, "identity"),
    ]


def test_fuzz_program_prints_what_it_found_and_how_to_see_it_again() -> None:
    """The steps, the leak with its sites, the line and the file; exit code 1, no other output."""
    result = invoke("fuzz", "victim:main")

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("found in victim:main, in run ")
    assert lines[2:5] == ["  open 1", "  open 2", "  open 3"]
    assert "LeakError: 1 task leaked (expected 0 alive after close, got 1)" in lines
    assert f"    made at {line_of('create_task(forever')} in main" in lines
    line = Replay.load(FILE).line
    assert lines[-3:] == [
        f"again, also from {FILE}:",
        f"  muxleak replay {line} victim:main",
        f"  muxleak replay {FILE} victim:main",
    ]
    assert "main runs" not in result.output
    assert "beyond" not in result.output


def test_fuzz_program_keeps_a_file_that_replay_repeats(folder: Path) -> None:
    """File and line give the same verdict, word for word, and the same trace; exit code 1."""
    found = invoke("fuzz", "victim:main")
    verdict = found.stdout.partition("\n")[2].partition("again, also")[0]
    line = Replay.load(FILE).line

    assert (folder / FILE).stat().st_size <= 4096
    for words in (
        (FILE, "victim:main"),
        ("--trust", FILE),
        (line, "victim:main"),
        (f"{line} victim:main",),
    ):
        again = invoke("replay", *words)
        assert (again.exit_code, again.stdout) == (1, f"failed: victim:main\n{verdict}")
        assert again.stderr == "main runs\n"
    data = [
        json.loads(invoke("replay", *words, "--json").stdout)
        for words in ((FILE, "victim:main"), (line, "victim:main"))
    ]
    assert [each["runs"][0]["same_run"] for each in data] == [True, None]
    assert {each["runs"][0]["trace"] for each in data} == {Replay.load(FILE).trace}


def test_fuzz_program_json_has_everything() -> None:
    """What was searched, what was found, and where it is kept."""
    data: dict[str, Any] = json.loads(invoke("fuzz", "victim:main", "--json", "--seed", "3").stdout)

    assert (data["subject"], data["seed"], data["ended"]) == ("victim:main", 3, "shrunk")
    assert data["budget"] == {"examples": 2000, "seconds": None}
    assert (data["found"], data["shrunk"], data["file"]) == (True, True, FILE)
    assert (data["error"], data["beyond_stock_asyncio"]) == ("LeakError", False)
    assert data["steps"] == ["open 1", "open 2", "open 3"]
    assert data["report"]["total"] == 1
    assert data["replay"] == f"{Replay.load(FILE).line} victim:main"


def test_fuzz_program_says_the_budget_in_which_nothing_was_found(folder: Path) -> None:
    """Exit code 0, no file."""
    result = invoke("fuzz", "victim:fine", "--examples", "5", "--time", "100")

    text = "nothing found: 5 schedules, within the budget of 5 schedules and 100 s\n"
    assert (result.exit_code, result.stdout) == (0, text)
    assert json.loads(invoke("fuzz", "victim:fine", "--examples", "5", "--json").stdout) == {
        "subject": "victim:fine",
        "seed": 0,
        "budget": {"examples": 5, "seconds": None},
        "wakeups": False,
        "ended": "examples",
        "runs": 5,
        "shrinks": 0,
        "found": False,
    }
    assert not [*folder.glob("*.json")]


def test_fuzz_program_keeps_to_its_time() -> None:
    """Without --examples the runs are without limit."""
    data = json.loads(invoke("fuzz", "victim:fine", "--time", "0.01", "--json").stdout)

    assert (data["ended"], data["budget"]["examples"]) == ("time", None)
    late = invoke("fuzz", "victim:many_steps", "--time", "0.000001")
    assert late.exit_code == 1
    assert "; the time is up, so perhaps not the simplest " in " ".join(late.stdout.split())
    shown = re.findall(r"^  step \d+$|^  and .* more steps?$", late.stdout, re.MULTILINE)
    assert len(shown) == 31


def test_fuzz_program_ends_a_run_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grace after its time, it says where the program is, and ends all with exit code 1."""
    told: list[tuple[str, int]] = []

    def leave(text: str, code: int) -> NoReturn:
        told.append((text, code))
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupt, "GRACE", 0.01)
    monkeypatch.setattr(interrupt, "leave", leave)
    timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    # The first search in a process looks through all modules, which takes longer than the time.
    invoke("fuzz", "victim:fine", "--examples", "1")
    invoke("fuzz", "victim:blocks", "--time", "0.01")

    file, _, number = line_of("while True:").partition(":")
    loop = f"{file}:{number}", f"{file}:{int(number) + 1}"  # the line or its body
    at = [f"victim:blocks: run 1 has not ended for 0 s; it is at {each} in blocks" for each in loop]
    assert told in ([(at[0], 1)], [(at[1], 1)])
    now = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert now == timer


def test_place_that_is_no_line_of_the_program_is_said_to_be_none() -> None:
    """Neither a line of ours nor one of who has started us."""
    seen: list[str] = []

    def look(_now: Progress) -> bool:
        frame = inspect.currentframe()
        seen.append(programs.place(frame))
        seen.append(programs.place(frame and frame.f_back))
        with framed():
            return True

    @contextmanager
    def framed() -> Iterator[None]:
        frame = inspect.currentframe()
        seen.append(programs.place(frame and frame.f_back))
        yield

    async def program() -> None:
        pass

    find_leaks(program, progress=look)

    assert seen[0].endswith(" in " + look.__qualname__)
    assert seen[1] == "no line of its own"
    assert seen[2].endswith(" in " + look.__qualname__)  # not contextlib's


def test_leak_of_an_operation_names_no_line_of_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says where the objects were made; the line that raised it is the simulator's."""
    monkeypatch.chdir(tmp_path)
    Path("operating.py").write_text(
        "import asyncio\n"
        "from muxleak.sim import current\n"
        "async def main():\n"
        "    async with current().operation('request 7'):\n"
        "        asyncio.create_task(asyncio.Event().wait())\n",
        "utf-8",
    )

    found = invoke("fuzz", "operating:main")

    assert found.exit_code == 1
    assert "made at operating.py:5 in main" in found.stdout
    assert "raised at" not in found.stdout


def test_fuzz_program_finds_what_stock_asyncio_never_does_only_if_asked() -> None:
    """Permuted wake-ups are an option, and what needs them is labelled, also when replayed."""
    assert invoke("fuzz", "victim:order", "--examples", "300").exit_code == 0
    found = invoke("fuzz", "victim:order", "--wakeups")

    assert found.exit_code == 1
    assert f"AssertionError\n  raised at {line_of('== [1, 2]')} in order\n" in found.stdout
    assert "beyond stock asyncio: " in found.stdout
    again = invoke("replay", "muxleak-victim-order.sim.json", "victim:order")
    assert again.exit_code == 1
    assert "beyond stock asyncio: " in again.stdout
    # The leak of the other program needs no such thing.
    assert "beyond" not in invoke("fuzz", "victim:main", "--wakeups").stdout


def test_fuzz_program_tells_of_a_deadlock() -> None:
    """A program that cannot end is found, with who waits for what."""
    result = invoke("fuzz", "victim:waits")

    assert result.exit_code == 1
    assert "DeadlockError: nothing is ready" in result.stdout
    assert f"waits in forever ({line_of('create_future')})" in result.stdout
    (group,) = json.loads(invoke("fuzz", "victim:waits", "--json").stdout)["report"]["groups"]
    assert (group["name"], group["notes"]) == ("waits", ["nothing alive can wake it"])


def test_fuzz_program_tells_of_an_operation_that_takes_too_long() -> None:
    """The steps, the times, the setting, and where it waits; no line of the simulator."""
    result = invoke("fuzz", "victim:slow")

    assert result.exit_code == 1
    assert "\n  ask\n\nTimeLimitError: operation request took 301 s, limit 300 s; " in result.stdout
    assert f"waits in slow ({line_of('sleep(301)')})" in result.stdout
    assert "raised at" not in result.stdout


def test_fuzz_program_stops_on_interrupt_with_what_it_has() -> None:
    """Ctrl-C, even inside of a run, ends the search: 130 with nothing, 1 with a finding."""
    before = signal.getsignal(signal.SIGINT)
    nothing = invoke("fuzz", "victim:interrupted")

    assert nothing.exit_code == 130
    assert (
        nothing.stdout
        == "nothing found: 3 schedules, stopped before the budget of 2,000 schedules\n"
    )
    sys.modules["victim"].runs = iter(range(10))  # type: ignore[attr-defined]
    found = invoke("fuzz", "victim:interrupted_later", "--json")
    assert found.exit_code == 1
    data = json.loads(found.stdout)
    assert (data["ended"], data["shrunk"], data["error"]) == ("stopped", False, "AssertionError")
    assert signal.getsignal(signal.SIGINT) is before


def test_fuzz_program_that_is_too_long_for_a_file_still_has_a_line(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """What was stopped before it was shrunk may not fit 4 KB."""

    def too_long(self: Replay) -> str:
        del self
        return "sim1:" + Random(1).randbytes(3000).hex()

    monkeypatch.setattr(Replay, "line", property(too_long))
    result = invoke("fuzz", "victim:main")

    assert result.exit_code == 1
    assert "again; it is too long for a file:\n  muxleak replay sim1:" in result.stdout
    assert not [*folder.glob("*.json")]


def test_fuzz_program_overwrites_nothing(folder: Path) -> None:
    """A different file stays; the same is written once."""
    (folder / FILE).write_text("mine\n")
    second = FILE.replace(".sim.json", "-2.sim.json")
    files = [json.loads(invoke("fuzz", "victim:main", "--json").stdout)["file"] for _ in range(2)]

    assert files == [second, second]
    assert invoke("replay", second, "victim:main").exit_code == 1
    named = invoke("fuzz", "victim:main", "--out", "mine.json", "--json")
    assert json.loads(named.stdout)["file"] == "mine.json"
    assert invoke("replay", "--trust", "mine.json").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("victim:mian",), "no 'mian' in module 'victim'; did you mean 'main'?"),
        (("victm:main",), "no module 'victm'"),
        (("victim:",), "expected module:callable, such as myserver.sim:main, got 'victim:'"),
        (("victim",), "a program of yours is named as module:callable"),
        (("victim:plain",), "expected an async function, got a plain function"),
        (("victim:FIXED",), "got False, which is not callable"),
        (("victim:asyncio",), "…, which is not callable"),
        (("victim:takes",), "without arguments, got one that takes host"),
        (
            ("victim:main", "--variant", "fixed"),
            "--variant means nothing for a program; leave it out",
        ),
        (("victim:main", "--target", "simulated"), "--target means nothing for a program"),
        (("victim:main", "--fresh"), "--fresh means nothing for a program"),
        (("victim:main", "--out", "no/such"), "expected a folder that exists, got 'no'"),
        (("victim:main", "--examples", "0"), "must be a whole number of at least 1, got 0"),
        (("V1", "--wakeups"), "--wakeups means nothing for a pair or version"),
        (("victim:thread",), "victim:thread cannot be simulated: run_in_executor leaves the sim"),
        (("victim:swallows",), "in swallows, and the program went on without it; keep that out"),
        (("victim:leaves",), "victim:leaves calls sys.exit(3)"),
        (("victim:chance",), "victim:chance: the failing run cannot be repeated"),
    ],
)
def test_fuzz_program_tells_bad_usage(words: tuple[str, ...], message: str) -> None:
    """Exit code 2, and nothing on stdout."""
    result = invoke("fuzz", *words)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("threading.Thread(target=print).start()", "Thread.start"),
        ("socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo"),
        ("sock.connect(('127.0.0.1', 9))", "socket.connect"),
        ("signal.signal(signal.SIGUSR1, print)", "signal.signal"),
        ("subprocess.run(['true'])", "Popen"),
        ("time.sleep(0)", "time.sleep"),
        ("by_name(0)", "time.sleep"),
        ("await asyncio.to_thread(print)", "run_in_executor"),
        ("await asyncio.create_subprocess_exec('true')", "subprocess_exec"),
    ],
)
def test_fuzz_program_that_leaves_the_simulation_is_bad_usage(
    folder: Path, call: str, name: str
) -> None:
    """Exit code 2 with the call and its line, although the program has swallowed the refusal."""
    (folder / "leaver.py").write_text(
        "import asyncio, signal, socket, subprocess, threading, time\n"
        "from time import sleep as by_name\n"
        "async def main():\n"
        "    with socket.socket() as sock:\n"
        "        try:\n"
        f"            {call}\n"
        "        except Exception:\n"
        "            pass\n",
        "utf-8",
    )

    result = invoke("fuzz", "leaver:main", "--examples", "3")

    assert (result.exit_code, result.stdout) == (2, "")
    said = " ".join(result.stderr.split())
    assert f"{name} leaves the simulation" in said
    assert "refused in leaver.py:6 in main" in said


def test_replay_of_a_program_that_is_fixed_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 0; a run that is another one is told, and is no failure."""

    def changed(*_: object, **__: object) -> Difference:
        return Difference("changed", "or its settings have changed", ())

    monkeypatch.setattr(cli_replay, "why_it_differs", changed)
    invoke("fuzz", "victim:main")
    sys.modules["victim"].FIXED = True  # type: ignore[attr-defined]
    fixed = invoke("replay", FILE, "victim:main")
    other = json.loads(invoke("replay", FILE, "victim:fine", "--json").stdout)

    assert fixed.exit_code == 0
    assert fixed.stdout.startswith(
        "clean: victim:main does not fail\nanother run than the file's: the program or its "
    )
    assert (other["clean"], other["runs"][0]["same_run"]) == (True, False)
    assert other["runs"][0]["differs_by"] == "changed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("victim:fine", "the program or its settings have changed since"),
        ("victim:hashes", "the program depends on hash order, such as a set of strings that is "),
        ("victim:identities", "the program depends on object identity, such as a set of objects "),
    ],
)
def test_replay_that_is_another_run_names_the_cause(folder: Path, name: str, why: str) -> None:
    """A program that depends on hash order has not changed."""
    Replay(name=name, trace="0" * 24).save(folder / "found.sim.json")

    result = invoke("replay", "found.sim.json", name)

    assert result.exit_code == 0
    assert f"another run than the file's: {why}" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sim1:AAAAAA",), "as in: muxleak replay sim1:AAAAAA module:callable"),
        (("sim1:A", "victim:main"), "this line was cut or changed: 'sim1:A'"),
        (("sim1:AAAAAA", "victim:mian"), "did you mean 'main'?"),
        (("sim1:AAAAAA", "victim:main", "a:open"), "a line or a file, and a program, got 'a:open'"),
        (
            ("sim1:AAAAAA", "victim:main", "--variant", "fixed"),
            "--variant means nothing for a program",
        ),
        (("sim1:AAAAAA", "victim:thread"), "victim:thread cannot be simulated"),
        (("sim1:AAAAAA", "victim:swallows"), "victim:swallows cannot be simulated"),
        (("empty.sim.json",), "empty.sim.json: not a replay file"),
        (("other.json",), "other.json: not a replay file"),
        (("gone.sim.json", "gone:main"), "no module 'gone'"),
        (("gone.sim.json", "--trust"), "no module 'gone'"),
        (
            ("gone.sim.json",),
            "if you trust that code: muxleak replay gone.sim.json gone:main, or --trust",
        ),
        (("nameless.sim.json", "--trust"), "expected a program after the file, as in: muxleak"),
        (("sim1:AAAAAA", "--trust"), "expected a program after the line, as in: muxleak replay"),
        (("V1 a:open", "--trust"), "--trust means nothing for lines of steps; leave it out"),
    ],
)
def test_replay_of_a_program_tells_bad_usage(words: tuple[str, ...], message: str) -> None:
    """Exit code 2, with what was expected."""
    Path("empty.sim.json").write_bytes(b"")
    Path("other.json").write_text('{"a": 1}')
    Replay(name="gone:main").save("gone.sim.json")
    Replay().save("nameless.sim.json")
    result = invoke("replay", *words)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "name", ["harm:main", "victim;touch harmed:main", "harm:main\nx", "harm", "harm:__dict__"]
)
def test_replay_never_imports_a_program_that_only_a_file_names(folder: Path, name: str) -> None:
    """Its module is not even looked for, and the command in the message is quoted for a shell."""
    (folder / "harm.py").write_text("open('harmed', 'w')\nasync def main(): pass\n")
    Replay(name=name).save("harm.sim.json")
    Path("harm.txt").write_bytes(Path("harm.sim.json").read_bytes())

    for file in ("harm.sim.json", "harm.txt"):
        result = invoke("replay", file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert shlex.join(["muxleak", "replay", file, name]) in result.stderr
    assert not (folder / "harmed").exists()
    assert "harm" not in sys.modules


def test_fuzz_program_progress_tells_speed_and_the_best() -> None:
    """Schedules per second, how many were run, and the simplest once there is one."""
    searching = Progress(500)
    shrinking = Progress(10, 90, Decisions(b"\1\0\2", b"\0\0\3"))

    words = fuzz_program.progress_in_words
    assert words("a:b", searching, 0.5) == "1,000 schedules/s, 500 run: searches a:b"
    assert words("a:b", shrinking, 2) == (
        "50 schedules/s, 100 run, best 3 draws and 1 deviation: shrinks a:b"
    )


@pytest.mark.slow
def test_fuzz_program_from_the_shell(folder: Path) -> None:
    """In processes of their own: found, the same trace under another hash seed, and Ctrl-C."""

    def run(*words: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
        code = "import sys; del sys.path[0]; from muxleak_scenarios.cli import main; main()"
        return subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", code, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert run("fuzz", "victim:main").returncode == 1
    runs = [
        json.loads(run("replay", FILE, "victim:main", "--json", seed=seed).stdout) for seed in "123"
    ]
    assert {each["runs"][0]["trace"] for each in runs} == {Replay.load(FILE).trace}
    late = run("fuzz", "victim:blocks", "--time", "0.1")
    assert (late.returncode, late.stdout) == (1, "")
    assert "victim:blocks: run 1 has not ended for 10 s; it is at victim.py:" in late.stderr
    stopped = run("fuzz", "victim:interrupted")
    assert (stopped.returncode, stopped.stderr) == (130, "")
    assert stopped.stdout.startswith("nothing found: 3 schedules, stopped before the budget")
