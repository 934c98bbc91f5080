"""The search finds what is planted, on every seed, and shrinks it; and nothing in what is sound."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings

from muxleak import LeakError
from muxleak.search import Progress, find_leaks
from muxleak.search.shrink import shrink
from muxleak.search.strategies import any_choices
from muxleak.search.subject import Decisions
from muxleak.sim import Choices, Network, current, simulate
from racing import Program, deep_mux, pause, watcher
from tasks import forever

SEEDS = range(20)
WHERE = ("127.0.0.1", 7000)


@pytest.mark.parametrize("program", [watcher, deep_mux])
def test_search_finds_a_deep_bug_on_every_seed(program: Callable[..., Program]) -> None:
    """A leak that stock asyncio never shows is found in few runs, without an assertion."""
    found = [
        find_leaks(program(fixed=False), seed=seed, wakeups=True, shrinking=False) for seed in SEEDS
    ]

    assert find_leaks(program(fixed=False), examples=200) is None
    examples = [each.examples for each in found if each is not None]
    assert len(examples) == len(SEEDS)
    assert median(examples) <= 20
    assert all(isinstance(each.error, LeakError) for each in found if each is not None)


@pytest.mark.parametrize("program", [watcher, deep_mux])
def test_search_finds_nothing_in_the_fixed_program(program: Callable[..., Program]) -> None:
    """The same schedules of the fixed program are clean."""
    for seed in range(3):
        assert find_leaks(program(fixed=True), seed=seed, examples=150, wakeups=True) is None


def test_search_shrinks_to_the_one_deviation_that_matters() -> None:
    """What remains of the schedule is what the leak needs, the same on every seed."""
    lines = {
        found.replay.line
        for seed in SEEDS
        if (found := find_leaks(watcher(fixed=False), seed=seed, wakeups=True)) is not None
    }

    assert len(lines) == 1


def test_search_names_what_it_found() -> None:
    """A finding says what leaked, what was done, and how to see it again."""

    async def program() -> None:
        for number in range(current().choices.below(4)):
            current().step(f"open {number}")
            if number == 2:
                _ = asyncio.get_running_loop().create_task(forever())

    found = find_leaks(program)

    assert found is not None
    lines = str(found).splitlines()
    assert lines[0].startswith("LeakError: 1 task leaked")
    assert lines[-2:] == [
        "steps: open 0 | open 1 | open 2",
        f"found in run {found.examples}, replay with: {found.replay.line}",
    ]


@pytest.mark.parametrize(
    ("strategy", "wakeups"),
    [("pct", True), ("uniform", True), ("few", True), ("uniform", False), ("few", False)],
)
def test_strategies_find_what_is_near(strategy: str, wakeups: bool) -> None:  # noqa: FBT001 - a parameter
    """Each strategy alone finds a bug that one deviation shows."""
    seen: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        writer.close()

    async def cut() -> None:
        seen.clear()
        server = await asyncio.start_server(serve, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        writer.write(b"0123456789")
        await current().settle()
        writer.close()
        server.close()
        assert seen == [b"0123456789"]

    async def note(number: int) -> None:
        seen.append(number)

    async def overtaken() -> None:
        seen.clear()
        await asyncio.gather(note(1), note(2))
        assert seen == [1, 2]

    program = overtaken if wakeups else cut
    found = find_leaks(program, schedulers=(strategy,), wakeups=wakeups)

    assert found is not None
    assert found.beyond == wakeups


def test_strategies_must_exist() -> None:
    """An unknown strategy is refused with what there is."""
    with pytest.raises(ValueError, match=r"unknown schedulers \['dfs'\], expected pct"):
        find_leaks(watcher(fixed=True), schedulers=("dfs",))


def test_priorities_are_fair() -> None:
    """A task that spins on what another does is no livelock."""

    async def program() -> None:
        done = False

        async def work() -> None:
            nonlocal done
            await pause(5)
            done = True

        task = asyncio.create_task(work())
        while not done:  # noqa: ASYNC110 - the spinning
            await asyncio.sleep(0)
        await task

    assert find_leaks(program, wakeups=True, examples=100, schedulers=("pct",)) is None


def test_search_tells_of_a_program_that_cannot_be_repeated() -> None:
    """A program whose failures depend on something else is an error of its own."""
    runs = iter(range(100))

    async def program() -> None:
        assert next(runs) != 3

    with pytest.raises(RuntimeError, match="cannot be repeated") as caught:
        find_leaks(program, shrinking=False)
    assert "could not be run in a fresh process" in caught.value.__notes__[0]


UNREPEATABLE = """
runs = iter(range(100))

async def program():
    assert next(runs) != 3
"""


@pytest.mark.slow
def test_search_tells_why_a_program_cannot_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh processes name the cause, if they can import it."""
    (tmp_path / "unrepeatable_program.py").write_text(UNREPEATABLE)
    monkeypatch.syspath_prepend(tmp_path)
    program = __import__("unrepeatable_program").program

    with pytest.raises(RuntimeError, match="keeps state between the runs of one process"):
        find_leaks(program, shrinking=False)


def test_search_reports_progress_and_faults() -> None:
    """Progress counts runs; faults of the network are part of the search."""
    seen: list[Progress] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            await forever()
        writer.close()

    async def program() -> None:
        server = await asyncio.start_server(serve, *WHERE)
        _, writer = await asyncio.open_connection(*WHERE)
        writer.write(b"x")
        await current().gap()
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()
        server.close()

    assert find_leaks(program, examples=50, progress=seen.append) is None
    assert seen == [Progress(number) for number in range(1, 51)]
    found = find_leaks(program, network=Network(faults=("reset",)), progress=seen.append)
    assert found is not None
    assert isinstance(found.error, LeakError)
    assert [each.shrinks for each in seen[-found.shrinks :]] == list(range(found.shrinks))
    last = seen[-1].best
    assert last is not None
    assert last.order[1:] >= (len(found.replay.program),)


def test_search_ends_when_it_is_told_to() -> None:
    """Without a failure it comes back with none; with one, with the simplest so far."""

    async def program() -> None:
        if current().choices.below(200) > 10:
            _ = asyncio.get_running_loop().create_task(forever())

    def ends(now: Progress) -> bool:
        runs.append(now)
        return now.examples == 3

    runs: list[Progress] = []
    found = find_leaks(program, progress=lambda now: now.best is not None)

    assert find_leaks(watcher(fixed=True), progress=ends) is None
    assert len(runs) == 3
    assert found is not None
    assert (found.shrinks, isinstance(found.error, LeakError)) == (0, True)
    assert found.replay.program > b"\x0b"


def test_shrink_reaches_what_hypothesis_reaches() -> None:
    """On a failure that needs three bytes out of many, the simplest bytes remain."""

    def fails(data: Decisions) -> Decisions | None:
        program, target, _ = data
        bad = len(program) > 1 and program[1] >= 3 and any(each >= 2 for each in target)
        return data if bad else None

    start = Decisions(bytes(range(100, 160)), bytes(range(50, 150)))
    best, spent = shrink(start, fails)

    assert best == Decisions(b"\0\3", b"\2")
    assert spent < 500


def test_shrink_stops_at_its_budget() -> None:
    """No more runs than allowed are spent."""
    best, spent = shrink(Decisions(bytes([255] * 50), b""), lambda data: data, attempts=1)

    assert (best, spent) == (Decisions(b"", b""), 1)


def test_choices_are_read_from_bytes() -> None:
    """Each kind of draw has the plain course at 0, and is written down in normal form."""
    choices = Choices(bytes([7, 255, 100, 1, 44, 9]))

    assert choices.below(5) == 2
    assert choices.chance(0.1)
    assert not choices.chance(0.5)
    assert choices.below(300) == 256 + 43
    assert choices.pick("abc") == "a"
    assert choices.below(1) == 0
    assert choices.trimmed() == (bytes([2, 255, 0, 1, 44]), b"")
    assert repr(Choices(b"\1\0", b"")) == "Choices(b'\\x01', b'')"
    with pytest.raises(ValueError, match="positive limit, got 0"):
        choices.below(0)


@settings(max_examples=20, database=None)
@given(any_choices(64))
def test_choices_can_be_drawn_by_hypothesis(choices: Choices) -> None:
    """A `@given` test draws all of a run at once."""

    async def program() -> int:
        return current().choices.below(7)

    assert simulate(program, choices=choices, wakeups=True).value in range(7)
