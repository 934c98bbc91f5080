"""The file of known leaks: new ones fail, known ones pass, those that are gone must be removed."""

import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from muxleak.plugin.baseline import Gone, gone, read, text, updated, write

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

HEAD = """
    import asyncio

    import pytest
    import pytest_asyncio

    pytestmark = pytest.mark.asyncio(loop_scope="module")
    KEPT = []

    async def watch():
        await asyncio.Event().wait()

    def start():
        KEPT.append(asyncio.create_task(watch()))

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def server():
        start()
        yield
    """
LEAKING = """
    async def test_one():
        start()

    async def test_two():
        start()
        start()

    async def test_clean():
        await asyncio.sleep(0)
    """
EXPLICIT = """
    from muxleak import no_leaks

    async def test_one():
        start()

    async def test_block():
        async with no_leaks(budget=0.05):
            start()

    @pytest.mark.no_leaks(repeat=4, budget=0.05)
    async def test_repeated():
        start()

    async def test_two():
        start()
        start()
        async with no_leaks(budget=0.05):
            start()
    """
KNOWN = """\
["test_it.py::test_one"]
"task test_it.py in start" = 1

["test_it.py::test_two"]
"task test_it.py in start" = 2
"""
RATCHET = ("--leaks=strict", "--leaks-known=known.toml")


def write_suite(project: Project, body: str = LEAKING) -> None:
    """Write a test file with these tests."""
    project.write(textwrap.dedent(HEAD) + textwrap.dedent(body))


def entries(project: Project) -> str:
    """The file of known leaks, without its comments."""
    content: str = (project.path / "known.toml").read_text()
    return content.partition("\n\n")[2]


def test_text_is_sorted_and_can_be_read_back(tmp_path: Path) -> None:
    """Whatever a test's id holds, and in whatever order the leaks came."""
    known = {
        'b.py::test["quoted" \\ é\n]': {"timer x.py in f": 2, "task x.py in f": 1},
        "a.py::test": {"task <string> in g": 3},
        "empty": {},
    }
    path = tmp_path / "sub" / "known.toml"
    write(path, known)

    assert read(path) == {key: leaks for key, leaks in known.items() if leaks}
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert lines[:2] == ['["a.py::test"]', '"task <string> in g" = 3']
    assert lines[3:] == ['"task x.py in f" = 1', '"timer x.py in f" = 2']
    assert text(known) == text(dict(reversed(known.items())))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("test = 1", "expected a table of leaks for 'test', got 1"),
        ('["t"]\n"task x" = 0', "t: expected a count above 0 for 'task x', got 0"),
        ('["t"]\n"task x" = "many"', "expected a count above 0 for 'task x', got 'many'"),
        ('["t"]\n"task x" = true', "expected a count above 0 for 'task x', got True"),
        ("what?", "line 1"),
    ],
)
def test_read_refuses_another_file(tmp_path: Path, content: str, message: str) -> None:
    """The message says where it is wrong and what was expected."""
    path = tmp_path / "known.toml"
    path.write_text(content)

    with pytest.raises(ValueError, match=message):
        read(path)


def test_gone_looks_only_at_tests_that_ran() -> None:
    """What there is less of; a test that did not run to its end says nothing."""
    known = {"a": {"x": 2, "y": 1}, "b": {"x": 1}, "c": {"x": 1}}
    found = {"a": {"x": 1}, "c": {"x": 1}}

    assert gone(known, found, ["c", "a"]) == [Gone("a", "x", 2, 1), Gone("a", "y", 1, 0)]


def test_updated_keeps_what_did_not_run() -> None:
    """Tests that ran are written anew, vanished ones dropped, failed ones only added to."""
    known = {"ran": {"x": 2}, "failed": {"x": 1}, "elsewhere": {"x": 1}, "vanished": {"x": 1}}
    found = {"ran": {"y": 1}, "failed": {"y": 1}, "new": {"x": 3}}

    assert updated(known, found, ["ran", "new"], ["vanished"]) == {
        "ran": {"y": 1},
        "failed": {"x": 1, "y": 1},
        "elsewhere": {"x": 1},
        "new": {"x": 3},
    }


def test_update_writes_the_file(project: Project) -> None:
    """The tests pass, and the file lists what they left behind, without line numbers."""
    write_suite(project)

    result = project.run(*RATCHET, "--leaks-update")
    result.assert_outcomes(passed=3)
    assert entries(project) == KNOWN
    result.stdout.fnmatch_lines(
        ["muxleak: *updating=*known.toml (0 leaks)", "wrote *known.toml: 3 leaks of 2 tests"]
    )


def test_known_leaks_pass(project: Project) -> None:
    """Unchanged: no failure, and the sum says how many are known."""
    write_suite(project)
    (project.path / "known.toml").write_text(KNOWN)

    result = project.run(*RATCHET)
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["2 tests left something behind: 0 new, 2 known"])


def test_known_leaks_survive_an_edit_above(project: Project) -> None:
    """A leak that moved to another line is the same leak."""
    write_suite(project, "# one\n# more\n# line\n" + textwrap.dedent(LEAKING))
    project.write("# above\n" + (project.path / "test_it.py").read_text())
    (project.path / "known.toml").write_text(KNOWN)

    project.run(*RATCHET).assert_outcomes(passed=3)


def test_a_new_leak_fails(project: Project) -> None:
    """In a test without any, of another kind, or one more of the same."""
    write_suite(
        project,
        """
        async def test_one():
            start()
            start()

        async def test_two():
            start()
            start()
            asyncio.get_running_loop().call_later(100, print)

        async def test_clean():
            start()
        """,
    )
    (project.path / "known.toml").write_text(KNOWN)

    result = project.run(*RATCHET)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*___ test_one ___*",
            "2 tasks left behind",
            "*note: 2 x task test_it.py in start; 1 known",
            "*___ test_two ___*",
            "1 timer left behind",
            "*___ test_clean ___*",
            "1 task left behind",
            "3 tests left something behind: 3 new, 0 known",
        ]
    )


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_a_leak_that_is_gone_must_be_removed(project: Project, mode: str) -> None:
    """The run fails, or only tells so, and names the entry and the cure."""
    write_suite(
        project,
        """
        async def test_two():
            start()
        """,
    )
    (project.path / "known.toml").write_text(KNOWN)

    result = project.run(f"--leaks={mode}", "--leaks-known=known.toml")
    result.assert_outcomes(passed=1)
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if mode == "strict" else pytest.ExitCode.OK)
    result.stdout.fnmatch_lines(
        [
            "known leaks that are gone: take them out of *known.toml (--leaks-update)",
            "  test_it.py::test_two: task test_it.py in start (known 2, found 1)",
            "  test_it.py::test_one (there is no such test)",
        ]
    )
    project.run(*RATCHET, "--leaks-update")
    assert project.run(*RATCHET).ret == pytest.ExitCode.OK
    assert entries(project) == KNOWN.partition("\n\n")[2].replace("2", "1")


@pytest.mark.parametrize("selection", [["-k", "clean"], ["test_it.py::test_clean"]])
def test_a_part_of_the_suite_says_nothing_of_the_rest(
    project: Project, selection: list[str]
) -> None:
    """Tests that did not run keep their entries, and are not missed."""
    write_suite(project)
    (project.path / "known.toml").write_text(KNOWN)

    assert project.run(*RATCHET, *selection).ret == pytest.ExitCode.OK
    project.run(*RATCHET, *selection, "--leaks-update")
    assert entries(project) == KNOWN


def test_a_failed_test_says_nothing_of_its_leaks(project: Project) -> None:
    """It may not have come as far as the leak."""
    write_suite(
        project, LEAKING.replace("test_one():\n", "test_one():\n        assert KEPT == 1\n")
    )
    (project.path / "known.toml").write_text(KNOWN)

    result = project.run(*RATCHET)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*known leaks that are gone*")


@pytest.mark.usefixtures("small_heap")
def test_update_leaves_out_what_an_explicit_check_fails(project: Project) -> None:
    """Such a test fails again, whatever the file says."""
    write_suite(project, EXPLICIT)

    result = project.run(*RATCHET, "--leaks-update")
    result.assert_outcomes(passed=1, failed=3)
    assert entries(project) == KNOWN
    result.stdout.fnmatch_lines(
        [
            "4 tests left something behind: 0 new, 1 known, 3 failed by an explicit no_leaks",
            "wrote *: 3 leaks of 2 tests; what failed 3 tests by an explicit no_leaks is not in it",
        ]
    )


@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize(
    ("known", "counts"), [(KNOWN, "0 new, 1 known"), ("", "1 new, 0 known")], ids=["known", "new"]
)
def test_what_an_explicit_check_fails_is_neither_new_nor_known(
    project: Project, known: str, counts: str
) -> None:
    """It is counted by itself, so that the sum agrees with who failed and why."""
    write_suite(project, EXPLICIT)
    (project.path / "known.toml").write_text(known)

    result = project.run(*RATCHET)
    result.assert_outcomes(passed=int(bool(known)), failed=3 + (not known))
    result.stdout.fnmatch_lines(
        [f"4 tests left something behind: {counts}, 3 failed by an explicit no_leaks"]
    )


def test_a_wide_fixture_has_an_entry_of_its_own(project: Project) -> None:
    """Known, it is no error of whichever test comes last."""
    write_suite(
        project,
        """
        async def test_it(server):
            await asyncio.sleep(0)
        """,
    )
    project.run(*RATCHET, "--leaks-update").assert_outcomes(passed=1)

    assert tomllib.loads(entries(project)) == {
        "test_it.py: fixture server (module scope)": {"task test_it.py in start": 1}
    }
    project.run(*RATCHET).assert_outcomes(passed=1)


def test_the_ini_value_is_relative_to_the_ini_file(project: Project) -> None:
    """And the places in it to the root, wherever pytest is called."""
    project.ini("leaks = strict", "leaks_known = known.toml")
    (project.path / "sub").mkdir()
    write_suite(project)
    project.run("--leaks-update")
    before = entries(project)
    project.pytester.chdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.path / "sub")
        project.run("..").assert_outcomes(passed=3)

    assert before == KNOWN


def test_a_broken_file_is_a_usage_error(project: Project) -> None:
    """The message names the file and what is wrong."""
    write_suite(project)
    (project.path / "known.toml").write_text('["t"]\n"task x" = 0\n')

    result = project.run(*RATCHET)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*known leaks *known.toml: t: expected a count above 0*"])
