"""The baseline: new leaks fail, leaks in it pass, and entries that no longer occur must go."""

import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from muxleak.plugin.baseline import Excess, excess, read, text, updated, write

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
BASELINE = """\
["test_it.py::test_one"]
"task test_it.py in start" = 1

["test_it.py::test_two"]
"task test_it.py in start" = 2
"""
OPTIONS = ("--leaks=strict", "--leaks-baseline=leaks.toml")


def write_suite(project: Project, body: str = LEAKING) -> None:
    """Write a test file with these tests."""
    project.write(textwrap.dedent(HEAD) + textwrap.dedent(body))


def entries(project: Project) -> str:
    """Return the baseline without its comments."""
    content: str = (project.path / "leaks.toml").read_text()
    return content.partition("\n\n")[2]


def test_text_is_sorted_and_can_be_read_back(tmp_path: Path) -> None:
    """With any characters in the id of a test, and leaks in any order."""
    baseline = {
        'b.py::test["quoted" \\ é\n]': {"timer x.py in f": 2, "task x.py in f": 1},
        "a.py::test": {"task <string> in g": 3},
        "empty": {},
    }
    path = tmp_path / "sub" / "leaks.toml"
    write(path, baseline)

    assert read(path) == {key: leaks for key, leaks in baseline.items() if leaks}
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert lines[:2] == ['["a.py::test"]', '"task <string> in g" = 3']
    assert lines[3:] == ['"task x.py in f" = 1', '"timer x.py in f" = 2']
    assert text(baseline) == text(dict(reversed(baseline.items())))


def test_write_gives_a_file_that_is_read(tmp_path: Path) -> None:
    """Also of names with characters that TOML forbids; half a surrogate pair is spelled out."""
    path = tmp_path / "leaks.toml"
    write(path, {"t\x7f\x00\u2028": {"task \udc80.py": 1}})

    assert read(path) == {"t\x7f\x00\u2028": {"task \\udc80.py": 1}}


def test_read_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    """With the place of the first."""
    path = tmp_path / "leaks.toml"
    path.write_bytes(b"# \xe4")

    with pytest.raises(ValueError, match="expected UTF-8, got the byte 0xe4 at offset 2"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("test = 1", "expected a table of leaks for 'test', got 1"),
        (
            '["t"]\n"task x" = 0',
            "'t': expected a count of 1 to 1,000,000,000,000 for 'task x'",
        ),
        ('["t"]\n"task x" = "many"', "000 for 'task x', got 'many'"),
        ('["t"]\n"task x" = true', "000 for 'task x', got true"),
        ('["t"]\n"task x" = inf', "000 for 'task x', got inf"),
        ('["t"]\n"task x" = ' + "9" * 4000, "000 for 'task x', got 999"),
        ('["t"]\n"task x" = 1\n"task x" = 1', "expected TOML, got something else"),
        ('["t"]\nx = ' + "[" * 40, "line 2: expected at most 32 dots and brackets"),
        ("x." * 40, "line 1: expected at most 32 dots and brackets"),
        ("#" * (1 << 24) + "#", "expected at most 16,777,216 bytes, got more"),
        ("what?", "line 1"),
    ],
)
def test_read_refuses_another_file(tmp_path: Path, content: str, message: str) -> None:
    """The message says where it is wrong and what was expected."""
    path = tmp_path / "leaks.toml"
    path.write_text(content)

    with pytest.raises(ValueError, match=message):
        read(path)


def test_excess_is_of_tests_that_ran() -> None:
    """An entry of a test that did not run to its end is no excess."""
    baseline = {"a": {"x": 2, "y": 1}, "b": {"x": 1}, "c": {"x": 1}}
    found = {"a": {"x": 1}, "c": {"x": 1}}

    assert excess(baseline, found, ["c", "a"]) == [
        Excess("a", "x", 2, 1),
        Excess("a", "y", 1, 0),
    ]


def test_updated_keeps_what_did_not_run() -> None:
    """Entries of passed tests are replaced, of removed tests dropped, of failed tests added to."""
    baseline = {"ran": {"x": 2}, "failed": {"x": 1}, "elsewhere": {"x": 1}, "removed": {"x": 1}}
    found = {"ran": {"y": 1}, "failed": {"y": 1}, "new": {"x": 3}}

    assert updated(baseline, found, ["ran", "new"], ["removed"]) == {
        "ran": {"y": 1},
        "failed": {"x": 1, "y": 1},
        "elsewhere": {"x": 1},
        "new": {"x": 3},
    }


def test_update_writes_the_file(project: Project) -> None:
    """The tests pass, and the file lists their leaks without line numbers."""
    write_suite(project)

    result = project.run(*OPTIONS, "--leaks-update")
    result.assert_outcomes(passed=3)
    assert entries(project) == BASELINE
    result.stdout.fnmatch_lines(
        [
            "muxleak: *baseline=*leaks.toml (0 leaks, to be updated)",
            "wrote *leaks.toml: 3 leaks of 2 tests",
        ]
    )


def test_leaks_in_the_baseline_pass(project: Project) -> None:
    """No test fails, and the summary counts them."""
    write_suite(project)
    (project.path / "leaks.toml").write_text(BASELINE)

    result = project.run(*OPTIONS)
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["2 tests left something behind: 0 new, 2 in the baseline"])


def test_baseline_survives_an_edit_above(project: Project) -> None:
    """A leak that moved to another line is the same leak."""
    write_suite(project, "# one\n# more\n# line\n" + textwrap.dedent(LEAKING))
    project.write("# above\n" + (project.path / "test_it.py").read_text())
    (project.path / "leaks.toml").write_text(BASELINE)

    project.run(*OPTIONS).assert_outcomes(passed=3)


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
    (project.path / "leaks.toml").write_text(BASELINE)

    result = project.run(*OPTIONS)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*___ test_one ___*",
            "2 tasks left behind",
            "*note: 2 x task test_it.py in start; 1 in the baseline",
            "*___ test_two ___*",
            "1 timer left behind",
            "*___ test_clean ___*",
            "1 task left behind",
            "3 tests left something behind: 3 new, 0 in the baseline",
        ]
    )


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_an_entry_without_a_leak_must_be_removed(project: Project, mode: str) -> None:
    """In strict mode the run fails; the message names the entry and the remedy."""
    write_suite(
        project,
        """
        async def test_two():
            start()
        """,
    )
    (project.path / "leaks.toml").write_text(BASELINE)

    result = project.run(f"--leaks={mode}", "--leaks-baseline=leaks.toml")
    result.assert_outcomes(passed=1)
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if mode == "strict" else pytest.ExitCode.OK)
    result.stdout.fnmatch_lines(
        [
            "the baseline *leaks.toml lists leaks that no longer occur: remove them, or write*",
            "  test_it.py::test_two: task test_it.py in start (baseline 2, found 1)",
            "  test_it.py::test_one (there is no such test)",
        ]
    )
    project.run(*OPTIONS, "--leaks-update")
    assert project.run(*OPTIONS).ret == pytest.ExitCode.OK
    assert entries(project) == BASELINE.partition("\n\n")[2].replace("2", "1")


@pytest.mark.parametrize("selection", [["-k", "clean"], ["test_it.py::test_clean"]])
def test_a_part_of_the_suite_leaves_the_rest_alone(project: Project, selection: list[str]) -> None:
    """Tests that did not run keep their entries."""
    write_suite(project)
    (project.path / "leaks.toml").write_text(BASELINE)

    assert project.run(*OPTIONS, *selection).ret == pytest.ExitCode.OK
    project.run(*OPTIONS, *selection, "--leaks-update")
    assert entries(project) == BASELINE


def test_a_failed_test_is_no_excess(project: Project) -> None:
    """It may have stopped before its leak."""
    write_suite(
        project, LEAKING.replace("test_one():\n", "test_one():\n        assert KEPT == 1\n")
    )
    (project.path / "leaks.toml").write_text(BASELINE)

    result = project.run(*OPTIONS)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*no longer occur*")


def test_update_leaves_out_what_an_explicit_check_fails(project: Project) -> None:
    """Such a test fails again, whatever the file says."""
    write_suite(project, EXPLICIT)

    result = project.run(*OPTIONS, "--leaks-update")
    result.assert_outcomes(passed=1, failed=3)
    assert entries(project) == BASELINE
    result.stdout.fnmatch_lines(
        [
            "4 tests left something behind: 0 new, 1 in the baseline, 3 failed by an explicit *",
            "wrote *: 3 leaks of 2 tests; without the leaks of 3 tests failed by an explicit *",
        ]
    )


@pytest.mark.parametrize(
    ("baseline", "counts"),
    [(BASELINE, "0 new, 1 in the baseline"), ("", "1 new, 0 in the baseline")],
    ids=["listed", "new"],
)
def test_what_an_explicit_check_fails_is_neither_new_nor_in_the_baseline(
    project: Project, baseline: str, counts: str
) -> None:
    """It is counted separately, so that the numbers agree with the failures."""
    write_suite(project, EXPLICIT)
    (project.path / "leaks.toml").write_text(baseline)

    result = project.run(*OPTIONS)
    result.assert_outcomes(passed=int(bool(baseline)), failed=3 + (not baseline))
    result.stdout.fnmatch_lines(
        [f"4 tests left something behind: {counts}, 3 failed by an explicit no_leaks"]
    )


def test_a_wide_fixture_has_an_entry_of_its_own(project: Project) -> None:
    """With the entry, the fixture does not fail the teardown of the last test."""
    write_suite(
        project,
        """
        async def test_it(server):
            await asyncio.sleep(0)
        """,
    )
    project.run(*OPTIONS, "--leaks-update").assert_outcomes(passed=1)

    assert tomllib.loads(entries(project)) == {
        "test_it.py: fixture server (module scope)": {"task test_it.py in start": 1}
    }
    project.run(*OPTIONS).assert_outcomes(passed=1)


def test_the_ini_value_is_relative_to_the_ini_file(project: Project) -> None:
    """Its places are relative to the root, in whichever folder pytest is called."""
    project.ini("leaks = strict", "leaks_baseline = leaks.toml")
    (project.path / "sub").mkdir()
    write_suite(project)
    project.run("--leaks-update")
    before = entries(project)
    project.pytester.chdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.path / "sub")
        project.run("..").assert_outcomes(passed=3)

    assert before == BASELINE


def test_a_broken_file_is_a_usage_error(project: Project) -> None:
    """The message names the file and what is wrong."""
    write_suite(project)
    (project.path / "leaks.toml").write_text('["t"]\n"task x" = 0\n')

    result = project.run(*OPTIONS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*baseline *leaks.toml: *t*: expected a count of 1*"])


@pytest.mark.parametrize("update", [[], ["--leaks-update"]], ids=["compare", "update"])
@pytest.mark.parametrize(
    ("ini", "arguments", "note"),
    [
        ("", ["--leaks-known=leaks.toml"], "--leaks-known is deprecated: use --leaks-baseline"),
        (
            "leaks_known = leaks.toml",
            [],
            "ini value leaks_known is deprecated: use leaks_baseline",
        ),
    ],
    ids=["option", "ini"],
)
def test_old_names_still_work(
    project: Project, ini: str, arguments: list[str], note: str, update: list[str]
) -> None:
    """With one note in the header and no warning, which `filterwarnings = error` would raise."""
    project.ini(ini)
    write_suite(project)
    if not update:
        (project.path / "leaks.toml").write_text(BASELINE)

    result = project.run("--leaks=strict", "-Werror", *arguments, *update)
    result.assert_outcomes(passed=3)
    assert (project.path / "leaks.toml").read_text().endswith(BASELINE)
    assert result.outlines.count(f"muxleak: {note}") == 1


def test_new_names_win_over_old_ones(project: Project) -> None:
    """And the command line over the ini file, whichever name it has."""
    project.ini("leaks_known = nowhere.toml", "leaks_baseline = leaks.toml")
    write_suite(project)
    (project.path / "leaks.toml").write_text(BASELINE)
    (project.path / "empty.toml").write_text("")

    project.run("--leaks=strict").assert_outcomes(passed=3)
    project.run("--leaks=strict", "--leaks-known=empty.toml").assert_outcomes(passed=1, failed=2)
    both = project.run("--leaks=strict", "--leaks-known=empty.toml", "--leaks-baseline=leaks.toml")
    both.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--leaks-baseline=x"], "*--leaks-baseline has no effect *: add --leaks=strict or *"),
        (["--leaks-known=x"], "*--leaks-known has no effect with leaks = off: add --leaks=strict*"),
        (["--leaks-update"], "*--leaks-update needs the file to write: add --leaks-baseline=FILE*"),
        (
            ["--leaks-update", "--leaks-baseline=x", "--leaks=off"],
            "*--leaks-update has no effect with leaks = off: add --leaks=strict or --leaks=warn*",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    project: Project, arguments: list[str], message: str
) -> None:
    """Also where tests are marked: with leaks = off the baseline is not read."""
    write_suite(project, "pytestmark = pytest.mark.no_leaks\n" + textwrap.dedent(LEAKING))

    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_leaks_off_overrides_a_baseline(project: Project) -> None:
    """Of the ini file in silence, and of `addopts` with a line in the header."""
    write_suite(project)
    project.ini("leaks_baseline = nowhere.toml")
    project.run().assert_outcomes(passed=3)

    project.ini("addopts = --leaks=strict --leaks-baseline=nowhere.toml")
    result = project.run("--leaks=off")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["muxleak: --leaks-baseline has no effect with --leaks=off"])
