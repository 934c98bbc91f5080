"""Several writers of one baseline: each has its own draft, and none loses another's leaks."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from muxleak import files
from muxleak.plugin import baseline
from source_roots import PYTHONPATH

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

OPTIONS = ("--leaks=strict", "--leaks-baseline=leaks.toml", "--leaks-update")
LEAKING = """
    import asyncio
    from pathlib import Path

    import pytest

    KEPT = []

    async def watch():
        await asyncio.Event().wait()

    @pytest.mark.parametrize("number", range(4))
    @pytest.mark.asyncio(loop_scope="module")
    async def test_leaks(number):
        KEPT.append(asyncio.create_task(watch()))
    """
WRITERS = """
    import sys
    from pathlib import Path
    from muxleak.plugin import baseline

    path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for number in range(count):
        if name.startswith("whole"):
            baseline.write(path, {name: {f"leak {each}": 1 for each in range(50)}})
        else:
            baseline.update(path, {f"{name} {number}": {"leak": 1}}, [f"{name} {number}"])
        baseline.read(path)
    """


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a baseline that does not exist yet."""
    return tmp_path / "leaks.toml"


def names(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(each.name for each in folder.iterdir())


def run_writers(path: Path, *writers: str, count: int) -> None:
    """Let processes write at the same time, and assert that none fails."""
    code, environment = textwrap.dedent(WRITERS), {**os.environ, "PYTHONPATH": PYTHONPATH}
    running = [
        subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", code, str(path), name, str(count)], env=environment
        )
        for name in writers
    ]
    assert [each.wait() for each in running] == [0] * len(writers)


def test_update_of_several_threads_loses_nothing(path: Path) -> None:
    """Each adds its own entries; the lock holds between threads as between processes."""

    def add(number: int) -> None:
        baseline.update(path, {f"test {number}": {"leak": 1}}, [f"test {number}"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))

    assert set(baseline.read(path)) == {f"test {number}" for number in range(40)}
    assert names(path.parent) == ["leaks.toml"]


@pytest.mark.slow
def test_update_of_several_processes_loses_nothing(path: Path) -> None:
    """And every file that is read in between is whole."""
    run_writers(path, "a", "b", "c", count=60)

    assert len(baseline.read(path)) == 180
    assert names(path.parent) == ["leaks.toml"]


@pytest.mark.slow
def test_write_of_several_processes_ends_with_one_of_them(path: Path) -> None:
    """The last one wins whole; none finds its draft gone or another's content in it."""
    run_writers(path, "whole 1", "whole 2", count=500)

    ((name, leaks),) = baseline.read(path).items()
    assert name in {"whole 1", "whole 2"}
    assert len(leaks) == 50
    assert names(path.parent) == ["leaks.toml"]


def test_write_within_a_write_has_a_draft_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer that replaces the file last has its whole content there."""
    inner: list[list[str]] = []

    def write_another(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: inner.append(names(path.parent)))
        baseline.write(path, {"inner": {"leak": 2}})
        assert baseline.read(path) == {"inner": {"leak": 2}}
        assert descriptor

    monkeypatch.setattr(os, "fsync", write_another)
    baseline.write(path, {"outer": {"leak": 1}})

    assert baseline.read(path) == {"outer": {"leak": 1}}
    assert [len(each) for each in inner] == [2]
    assert names(path.parent) == ["leaks.toml"]


def test_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no draft."""
    baseline.write(path, {"old": {"leak": 1}})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        baseline.write(path, {"new": {"leak": 1}})

    assert baseline.read(path) == {"old": {"leak": 1}}
    assert names(path.parent) == ["leaks.toml"]


def test_write_keeps_links_and_permissions(tmp_path: Path) -> None:
    """The file that a link leads to is replaced, with the mode that it had."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "leaks.toml", tmp_path / "leaks.toml"
    baseline.write(real, {})
    assert real.stat().st_mode & 0o777 == 0o666 & ~_umask()
    real.chmod(0o604)
    link.symlink_to(real)
    baseline.write(link, {"t": {"leak": 1}})
    baseline.update(link, {"u": {"leak": 1}}, ["u"])

    assert link.is_symlink()
    assert list(baseline.read(real)) == ["t", "u"]
    assert real.stat().st_mode & 0o777 == 0o604


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_lock_that_another_holds_is_waited_for_within_a_limit(path: Path) -> None:
    """The message says what to do; afterwards the lock is free again."""
    with files.locked(path):  # noqa: SIM117 - the inner one must fail while the outer one holds
        with pytest.raises(TimeoutError, match="another process holds it; wait for it, or end it"):
            with files.locked(path, limit=0.02):
                pytest.fail("two hold one lock")
    with files.locked(path, limit=0):
        pass


def test_lock_that_the_file_system_does_not_have_is_done_without(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network file systems."""
    fcntl = pytest.importorskip("fcntl", reason="needs a POSIX system")

    def none(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    assert baseline.update(path, {"t": {"leak": 1}}, ["t"]) == baseline.read(path)


def test_run_merges_into_the_file_as_it_is_when_it_ends(project: Project) -> None:
    """Another run has written meanwhile: its entries stay, with those of this run."""
    project.write(
        LEAKING
        + """
    def test_other_run():
        from muxleak.plugin import baseline
        entries = {"other.py::test": {"task other.py in f": 3}}
        baseline.update(Path("leaks.toml"), entries, entries)
    """
    )
    result = project.run(*OPTIONS)

    result.assert_outcomes(passed=5)
    found = baseline.read(project.path / "leaks.toml")
    assert found.pop("other.py::test") == {"task other.py in f": 3}
    assert len(found) == 4
    result.stdout.fnmatch_lines(["wrote *leaks.toml: 7 leaks of 5 tests"])


def test_run_leaves_a_file_that_has_become_another(project: Project) -> None:
    """The run says so, and ends with neither the code of a pass nor that of a leak."""
    project.write(
        LEAKING
        + """
    def test_edit():
        Path("leaks.toml").write_text("what?")
    """
    )
    result = project.run(*OPTIONS)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (project.path / "leaks.toml").read_text() == "what?"
    result.stdout.fnmatch_lines(
        ["could not write *leaks.toml: expected TOML, got something else*; it stays as it was"]
    )
    assert "Traceback" not in result.stdout.str()


@pytest.mark.slow
def test_runs_at_the_same_time_with_workers_lose_nothing(project: Project) -> None:
    """Two runs of pytest-xdist; the controller of each writes."""
    pytest.importorskip("xdist", reason="needs: pip install pytest-xdist")
    for name in ("test_one.py", "test_two.py"):
        project.write(LEAKING, name)
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda name: subprocess.run(  # noqa: S603 - our own code
                    [sys.executable, "-m", "pytest", "-n2", *OPTIONS, name],
                    cwd=project.path,
                    capture_output=True,
                    text=True,
                    check=False,
                ),
                ("test_one.py", "test_two.py"),
            )
        )

    assert [(each.returncode, each.stderr) for each in results] == [(0, "")] * 2
    assert sorted(baseline.read(project.path / "leaks.toml")) == [
        f"{name}::test_leaks[{number}]"
        for name in ("test_one.py", "test_two.py")
        for number in range(4)
    ]
