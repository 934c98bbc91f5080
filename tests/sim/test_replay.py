"""Replays: one line, one small file, the same run in a new process; and what is not one."""

import asyncio
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from muxleak import LeakError
from muxleak.introspect.sites import SiteFrame
from muxleak.search import find_leaks
from muxleak.sim import (
    Network,
    Replay,
    ReplayError,
    current,
    find_program,
    replay,
    rerun,
    simulate,
    simulated,
)
from muxleak.sim.replay import RecordedGroup
from source_roots import PYTHONPATH
from tasks import forever

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
from muxleak.sim import Network, current, simulated

async def forever():
    await asyncio.get_running_loop().create_future()

@simulated(network=Network(faults=("reset",)))
async def main():
    async def serve(reader, writer):
        try:
            await reader.read()
        except ConnectionResetError:
            await forever()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 80)
    for number in range(current().choices.below(5)):
        current().step(f"open {number}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", 80)
            writer.write(b"x")
            await current().gap()
            writer.close()
            await writer.wait_closed()
        except ConnectionResetError:
            pass
    server.close()
"""


@simulated(network=Network(latency=(0.0, 1.0)))
async def leaks_on_the_third() -> None:
    """Leak once three are open."""
    choices = current().choices
    opened = 0
    while choices.below(3):
        opened += 1
        current().step(f"open {opened}")
        if opened == 3:
            _ = asyncio.get_running_loop().create_task(forever())
        await current().gap()


@pytest.mark.parametrize(
    "found",
    [
        Replay(),
        Replay(b"\1\2", b"", wakeups=True),
        Replay(b"", bytes(500) + b"\1", gaps=False),
        Replay(Random(1).randbytes(700), Random(2).randbytes(1500), wakeups=True, gaps=False),
    ],
)
def test_line_holds_the_run(found: Replay) -> None:
    """A line is one word, and comes back as what it was made of."""
    assert Replay.parse(found.line) == found
    assert len(found.line.split()) == 1


def test_line_of_a_long_plain_run_is_short() -> None:
    """Bytes that mostly say "as usual" take little room."""
    assert len(Replay(environment=bytes(2_000) + b"\1").line) < 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a line that starts with 'sim1:'"),
        ("sim2:AAAAAA", "expected a line that starts with 'sim1:'"),
        ("sim1:", "cut or changed"),
        ("sim1:A!", "cut or changed"),
        ("sim1:AA", "cut or changed"),
        ("sim1:AXXX", "cut or changed"),
    ],
)
def test_line_that_is_none_is_refused(line: str, message: str) -> None:
    """What was cut or changed is refused, and says so."""
    with pytest.raises(ReplayError, match=message):
        Replay.parse(line)


def test_replay_repeats_what_the_search_found(tmp_path: Path) -> None:
    """The line, the value and the file all give the same failure and the same trace."""
    found = find_leaks(leaks_on_the_third)
    assert found is not None
    path = tmp_path / "found.json"
    found.replay.save(path)

    assert found.steps == ("open 1", "open 2", "open 3")
    runs = [
        replay(found.replay.line, leaks_on_the_third),
        replay(found.replay),
        replay(path, leaks_on_the_third),
        replay(str(path), trust=True),
    ]
    assert {run.trace_hash for run in runs} == {found.replay.trace}
    assert all(isinstance(run.error, LeakError) for run in runs)
    assert Replay.load(path) == found.replay


@pytest.mark.parametrize("load", [str, Path, Replay.load])
def test_replay_imports_no_program_that_only_a_file_names(tmp_path: Path, load: Any) -> None:
    """Not by its path, and not by the value that was read from it."""
    path = tmp_path / "harm.sim.json"
    Replay(name="harm:main").save(path)

    with pytest.raises(ReplayError, match=r"names 'harm:main', which would be .*trust=True"):
        replay(load(path))
    with pytest.raises(ReplayError, match="no module 'harm'"):
        replay(load(path), trust=True)


def test_replay_of_a_single_run() -> None:
    """Any run can be repeated, also one by chance that went well."""
    outcome = simulate(leaks_on_the_third, seed=2, leaks=False)

    again = replay(outcome.replay, leaks=False)

    assert again.trace_hash == outcome.trace_hash
    assert tuple(again.steps) == outcome.steps


def test_replay_notices_another_program() -> None:
    """If the program or its settings have changed, the trace says so."""
    found = find_leaks(leaks_on_the_third)
    assert found is not None

    with pytest.raises(ReplayError, match="no longer follows the recorded run"):
        replay(found.replay, forever, leaks=False)


@pytest.mark.parametrize("name", ["", "nowhere:main", "asyncio:nothing", f"{__name__}:a.b"])
def test_replay_needs_its_program(name: str) -> None:
    """A name that leads nowhere is refused with what to do."""
    with pytest.raises(ReplayError, match="give it to replay"):
        replay(Replay(name=name))


def test_file_stays_small(tmp_path: Path) -> None:
    """Steps give way to the limit of 4 KB, the bytes never; too many bytes are refused."""
    steps = tuple(f"step {number} with some text" for number in range(500))
    found = Replay(b"\1", b"\2", name="a:b", trace="0", verdict="x" * 900, steps=steps)
    path = tmp_path / "found.json"
    found.save(path)

    assert path.stat().st_size <= 4096
    assert Replay.load(path).steps[-1] == "..."
    assert Replay.load(path).environment == b"\2"
    with pytest.raises(ReplayError, match="shrink first"):
        Replay(Random(1).randbytes(4_000)).save(path)
    with pytest.raises(ReplayError, match="shrink first"):
        Replay(Random(1).randbytes(4_000), steps=steps).save(path)


def test_file_holds_the_signature_and_the_creation_sites(tmp_path: Path) -> None:
    """As data, without absolute paths; equal for equal failures, in every process."""
    found = find_leaks(leaks_on_the_third)
    again = find_leaks(leaks_on_the_third, seed=5)
    assert found is not None
    assert again is not None
    found.replay.save(tmp_path / "found.json")
    data = json.loads((tmp_path / "found.json").read_text())

    assert Replay.load(tmp_path / "found.json") == found.replay
    assert (data["muxleak_replay"], data["kind"]) == (2, "program")
    assert data["versions"]["python"] == platform.python_version()
    assert len(data["signature"]) == 16
    assert data["signature"] == again.replay.signature
    (group,) = data["groups"]
    assert (group["kind"], group["count"], group["name"]) == ("task", 1, "forever")
    assert group["created"][0]["function"] == "leaks_on_the_third"
    assert group["created"][0]["file"].endswith("sim/test_replay.py")
    assert not Path(group["created"][0]["file"]).is_absolute()


def test_file_leaves_out_groups_that_do_not_fit(tmp_path: Path) -> None:
    """The largest stay; the steps give way when one group is left."""
    frames = tuple(SiteFrame("folder/of/module.py", number, "function") for number in range(4))
    groups = tuple(RecordedGroup("task", 9 - number, "name", frames) for number in range(9))
    Replay(b"\1", steps=("a step",) * 9, groups=groups).save(tmp_path / "found.json")
    Replay(steps=("a step" * 40,) * 20, groups=groups).save(tmp_path / "long.json")

    assert (tmp_path / "found.json").stat().st_size <= 4096
    loaded = Replay.load(tmp_path / "found.json")
    assert 1 < len(loaded.groups) < 9
    assert loaded.groups == groups[: len(loaded.groups)]
    assert loaded.steps == ("a step",) * 9
    assert [len(each) for each in Replay.load(tmp_path / "long.json").steps] == [240] * 10 + [3]


@pytest.mark.parametrize("text", ["", "{}", '{"line": "sim1:x"}', "[1]"])
def test_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """What is no replay file is refused by name."""
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(ReplayError, match=r"other\.json: not a replay file"):
        Replay.load(path)


@pytest.mark.slow
def test_file_repeats_the_run_in_a_new_process(tmp_path: Path) -> None:
    """A file of at most 4 KB gives the same trace in fresh interpreters, whatever the hash seed."""
    (tmp_path / "victim.py").write_text(PROGRAM)
    find = "from victim import main; from muxleak.search import find_leaks; f = find_leaks(main); "
    save = "f.replay.save('found.json'); print(f.replay.trace)"
    again = "from muxleak.sim import replay; print(replay('found.json', trust=True).trace_hash)"
    seen = []
    for number, code in enumerate([find + save, again, again]):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([PYTHONPATH, str(tmp_path)]),
            "PYTHONHASHSEED": str(number),
        }
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not done.returncode, done.stderr
        seen.append(done.stdout.strip())

    assert len(set(seen)) == 1
    assert (tmp_path / "found.json").stat().st_size <= 4096
    assert json.loads((tmp_path / "found.json").read_text())["program"] == "victim:main"


EARLIER = """
import asyncio

KEPT = set()


async def handle(reader, writer):
    task = asyncio.create_task(asyncio.sleep(30))
    KEPT.add(task)
    if await reader.read(5) == b"hello":
        task.cancel()
    writer.close()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 80)
    _, writer = await asyncio.open_connection("127.0.0.1", 80)
    writer.write(b"hel")
    writer.write(b"lo")
    await asyncio.sleep(1)
    writer.close()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)
"""
# Written when the packages were still harness, scenarios and vless.
EARLIER_FILE = """{
 "program": "earlier_chat:main",
 "line": "sim1:AAAAAAAAAAAB",
 "trace": "b642236dfac4b02c3d8ca6ec",
 "verdict": "1 task leaked (expected 0 alive after close, got 1)",
 "steps": []
}
"""


def test_file_of_an_earlier_version_gives_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trace and its verdict; so does its line."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "earlier_chat.py").write_text(EARLIER)
    (tmp_path / "earlier.sim.json").write_text(EARLIER_FILE)

    found = Replay.load(tmp_path / "earlier.sim.json")
    program = find_program(found.name)
    for source in (found, Replay.parse(found.line)):
        result = rerun(source, program)
        assert result.trace_hash == found.trace
        assert isinstance(result.error, LeakError)


ABORTS = """
import asyncio


async def serve(reader, writer):
    task = asyncio.create_task(asyncio.sleep(30))
    try:
        await reader.read()
        task.cancel()
    except ConnectionResetError:
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 80)
    _, writer = await asyncio.open_connection("127.0.0.1", 80)
    await asyncio.sleep(1)
    writer.transport.abort()
    await asyncio.sleep(1)
    server.close()
"""


def test_replay_of_an_aborted_connection_from_an_earlier_version_still_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort reset the peer then; on a real loop, and now, the peer sees the end of file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "earlier_abort.py").write_text(ABORTS)
    program = find_program("earlier_abort:main")
    recorded = "9f34d2df017adcabdc0894c3"

    earlier = rerun(Replay(trace=recorded), program)
    assert earlier.trace_hash == recorded
    assert isinstance(earlier.error, LeakError)
    for trace in ("", "0" * 24):
        now = rerun(Replay(trace=trace), program)
        assert now.error is None
        assert now.trace_hash not in {recorded, trace}
