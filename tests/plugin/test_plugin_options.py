"""The options and ini values: each on the command line and in the ini file, and errors."""

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

LEAKING = """
    import asyncio

    import pytest

    KEPT = []

    async def watch():
        await asyncio.Event().wait()

    @pytest.mark.asyncio
    async def test_leaks():
        KEPT.append(asyncio.create_task(watch()))

    @pytest.mark.asyncio
    async def test_sets_a_timer():
        asyncio.get_running_loop().call_later(100, print)
    """


@pytest.fixture
def leaking(project: Project) -> Project:
    """A project with a leaking test."""
    project.write(LEAKING)
    return project


@pytest.mark.parametrize(
    ("ini", "arguments", "passed"),
    [
        ("", [], 2),
        ("", ["--leaks=off"], 2),
        ("", ["--leaks=warn"], 2),
        ("", ["--leaks=strict"], 0),
        ("leaks = off", [], 2),
        ("leaks = warn", [], 2),
        ("leaks = strict", [], 0),
        ("leaks = strict", ["--leaks=off"], 2),
        ("leaks = off", ["--leaks=strict"], 0),
    ],
)
def test_leaks_is_an_option_over_an_ini_value(
    leaking: Project, ini: str, arguments: list[str], passed: int
) -> None:
    """The command line wins over the ini file; nothing is checked by default."""
    leaking.ini(ini)

    leaking.run(*arguments).assert_outcomes(passed=passed, failed=2 - passed, warnings=None)


def test_warn_warns_with_the_report(leaking: Project) -> None:
    """The test passes, and the warning has the text of the failure of strict mode."""
    result = leaking.run("--leaks=warn")

    result.assert_outcomes(passed=2, warnings=2)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_leaks",
            "*LeakWarning: 1 task left behind",
            "*1 x watch",
            f"*made at {leaking.line('KEPT.append')} in test_leaks",
            "2 tests left something behind",
        ]
    )


@pytest.mark.parametrize("filters", ["error", "error::muxleak.plugin.LeakWarning"])
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_warn_changes_no_outcome_where_warnings_are_errors(
    leaking: Project, filters: str, workers: list[str]
) -> None:
    """The report goes to the summary instead."""
    if workers:
        pytest.importorskip("xdist", reason="needs pytest-xdist: pip install pytest-xdist")
        result = leaking.run_apart("--leaks=warn", f"-W{filters}", *workers)
    else:
        result = leaking.run("--leaks=warn", f"-W{filters}")

    result.assert_outcomes(passed=2, warnings=0)
    result.stdout.fnmatch_lines(
        [
            "*leaks*",
            "2 tests left something behind",
            "filterwarnings makes an error of 2 LeakWarnings, shown here instead",
            "test_it.py::test_leaks: 1 task left behind",
            "  1 x watch",
        ]
    )


def test_warn_is_ignored_by_its_name(leaking: Project) -> None:
    """As any warning; the summary still has the creation sites."""
    result = leaking.run("--leaks=warn", "-Wignore::muxleak.plugin.LeakWarning")

    result.assert_outcomes(passed=2, warnings=0)
    result.stdout.no_fnmatch_line("*1 x watch*")


def test_warn_warns_of_a_fixture(project: Project) -> None:
    """A fixture of a wider scope is warned of at its teardown."""
    project.write("""
        import asyncio
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def server():
            return asyncio.get_running_loop().call_later(100, print)

        @pytest.mark.asyncio(loop_scope="module")
        async def test_it(server):
            pass
        """)

    result = project.run("--leaks=warn")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*LeakWarning: 1 timer left behind by test_it.py: fixture server*"]
    )
    as_error = project.run("--leaks=warn", "-Werror::muxleak.plugin.LeakWarning")
    as_error.assert_outcomes(passed=1, warnings=0)
    as_error.stdout.fnmatch_lines(["1 timer left behind by test_it.py: fixture server*"])


@pytest.mark.parametrize(
    ("ini", "failed"),
    [
        ("leaks_kinds = task", ["test_leaks"]),
        ("leaks_kinds = timer server", ["test_sets_a_timer"]),
        ("leaks_ignore = name watch  # meant to stay", ["test_sets_a_timer"]),
        ("leaks_ignore = created_by test_it.py:*  # all of it", []),
        ("leaks_ignore =\n    waiting_in watch  # one\n    name print  # and another", []),
        ("leaks_budget = 0.1", ["test_leaks", "test_sets_a_timer"]),
    ],
)
def test_ini_values_select_leaks(leaking: Project, ini: str, failed: list[str]) -> None:
    """Kinds, what is ignored everywhere, and the budget."""
    leaking.ini("leaks = strict", ini)

    result = leaking.run()
    assert [
        line.split("::")[1].split()[0] for line in result.outlines if line.startswith("FAILED")
    ] == failed


def test_budget_is_the_time_for_a_late_task(project: Project) -> None:
    """A task that ends within the budget is no leak, and one that ends after it is one."""
    outcomes = []
    for delay, budget in (("60", "0.05"), ("0.1", "60")):
        project.write(f"""
            import asyncio
            import pytest

            KEPT = []

            @pytest.mark.asyncio
            async def test_late():
                KEPT.append(asyncio.create_task(asyncio.sleep({delay})))
            """)
        project.ini(f"leaks_budget = {budget}")
        outcomes.append(project.run("--leaks=strict").parseoutcomes())

    assert [each.get("failed", 0) for each in outcomes] == [1, 0]


@pytest.mark.parametrize(
    ("ini", "arguments", "message"),
    [
        ("leaks = loud", [], "*leaks = 'loud' is not valid; expected one of strict, warn, off"),
        ("leaks_kinds = task fish", ["--leaks=warn"], "*leaks_kinds*'fish'*'callback'*'timer'*"),
        ("leaks_budget = soon", ["--leaks=warn"], "*leaks_budget: expected*above 0, got 'soon'"),
        ("leaks_budget = 0", ["--leaks=warn"], "*leaks_budget: expected*above 0, got '0'"),
        ("leaks_ignore = watch", ["--leaks=warn"], "*one of created_by, name, waiting_in*'watch'"),
        ("leaks_ignore = name watch", ["--leaks=warn"], "*and a reason, got 'name watch'"),
        (
            "",
            ["--leaks-update", "--leaks=strict"],
            "*needs the file to write: add --leaks-baseline=*",
        ),
        ("", ["--leaks=warn", "--leaks-baseline=f"], "*no baseline at *f: write it with*update"),
        ("", ["--leaks=loud"], "*invalid choice: 'loud' (choose from*strict*warn*off*)"),
    ],
)
def test_usage_errors_list_the_valid_values(
    leaking: Project, ini: str, arguments: list[str], message: str
) -> None:
    """Exit code 4, and the message lists what was expected."""
    leaking.ini(ini)

    result = leaking.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_header_shows_the_settings(leaking: Project) -> None:
    """One line if a check is on, none if all are off."""
    plain = leaking.run("--leaks=strict")
    off = leaking.run()
    leaking.ini("leaks_kinds = timer task", "leaks_budget = 2", "leaks_ignore = name x  # y")
    narrow = leaking.run("--leaks=warn")

    plain.stdout.fnmatch_lines(["muxleak: leaks=strict, kinds=all, budget=0.5s"])
    narrow.stdout.fnmatch_lines(["muxleak: leaks=warn, kinds=task,timer, budget=2s, ignored=1"])
    off.stdout.no_fnmatch_line("muxleak: *")


def test_summary_counts_by_site(project: Project) -> None:
    """The number of tests that leak, and the leaks by creation site, the most common first."""
    project.write("""
        import asyncio
        import pytest

        def start(kept=[]):
            kept.append(asyncio.ensure_future(asyncio.Event().wait()))

        @pytest.mark.asyncio
        @pytest.mark.parametrize("count", [1, 2])
        async def test_tasks(count):
            for _ in range(count):
                start()

        @pytest.mark.asyncio
        async def test_timer():
            asyncio.get_running_loop().call_later(100, print)
        """)

    project.run("--leaks=strict").stdout.fnmatch_lines(
        [
            "=* leaks =*",
            "3 tests left something behind",
            f"  3 x task made at {project.line('ensure_future')} in start (2 tests)",
            f"  1 x timer made at {project.line('call_later')} in test_timer (1 test)",
        ]
    )


def test_help_shows_examples(leaking: Project) -> None:
    """Options, ini values and markers have an example each."""
    helped, marks = leaking.run("--help"), leaking.run("--markers")

    helped.stdout.fnmatch_lines(
        [
            "*--leaks={strict,warn,off}*",
            "*Example: pytest --leaks=strict*",
            "*leaks_ignore (linelist)*",
        ]
    )
    text = " ".join(marks.stdout.str().split())
    assert '@pytest.mark.no_leaks(kinds=["task", "timer"])' in text
    assert '@pytest.mark.leaks_allowed(reason="the daemon is meant to stay")' in text


@pytest.mark.parametrize("mode", ["off", "strict"])
def test_off_leaves_the_loop_untouched(project: Project, mode: str) -> None:
    """No task factory, no method replaced on the loop, its class or the module: only when on."""
    project.write(
        """
        import asyncio
        import threading
        import pytest

        @pytest.mark.asyncio
        async def test_it():
            loop = asyncio.get_running_loop()
            touched = [
                loop.get_task_factory() is not None,
                "call_at" in vars(loop),
                "muxleak" in asyncio.BaseEventLoop.run_forever.__code__.co_filename,
                "muxleak" in asyncio.runners._cancel_all_tasks.__code__.co_filename,
                "muxleak" in type(loop).create_connection.__code__.co_filename,
                "muxleak" in threading.Thread.start.__code__.co_filename,
            ]
            assert touched == [%s] * 6
        """
        % (mode != "off")
    )

    project.run(f"--leaks={mode}").assert_outcomes(passed=1)


def test_strict_puts_everything_back(project: Project) -> None:
    """After a run in this process, asyncio is as it was."""

    def state() -> list[object]:
        base, kind = asyncio.BaseEventLoop, asyncio.SelectorEventLoop
        methods = [base.__init__, base.run_forever, kind.create_server, threading.Thread.start]
        return [*methods, vars(asyncio.runners)["_cancel_all_tasks"]]

    before = state()
    project.write(LEAKING)
    project.run("--leaks=strict")

    assert state() == before


def test_properties_tell_kind_site_and_count(project: Project) -> None:
    """JUnit's file has them for each group, on the test that left it behind."""
    project.write("""
        import asyncio
        import pytest

        KEPT = []

        @pytest.mark.asyncio
        async def test_leaks():
            for _ in range(2):
                KEPT.append(asyncio.create_task(asyncio.Event().wait()))
            asyncio.get_running_loop().call_later(100, print)

        @pytest.mark.asyncio
        async def test_clean():
            pass
        """)

    project.run("--leaks=strict", "--junitxml=report.xml")
    report = (project.path / "report.xml").read_text()
    leaking, clean = report.split("<testcase")[1:]
    for text in (
        '<property name="muxleak.1.kind" value="task"',
        f'<property name="muxleak.1.site" value="{project.line("create_task")} in test_leaks"',
        '<property name="muxleak.1.count" value="2"',
        '<property name="muxleak.2.kind" value="timer"',
        '<failure message="muxleak.LeakError: 2 tasks, 1 timer left behind',
    ):
        assert text in leaking
    assert "property" not in clean


def test_only_the_plugin_imports_pytest() -> None:
    """The rest of the harness can be used where pytest is not installed."""
    harness = Path(__file__).resolve().parent.parent.parent / "harness" / "muxleak"
    found = {
        path.relative_to(harness).parts[0]
        for path in harness.rglob("*.py")
        if re.search(r"^\s*(import|from) _?pytest", path.read_text(), re.MULTILINE)
    }

    assert found == {"plugin"}


WATCHER = """
    import asyncio
    import threading

    class Watcher:
        def start(self):
            threading.Thread(target=self.watch, args=(threading.Event(),), daemon=True).start()

        def watch(self, event):
            event.wait(1)

    async def refresh():
        await asyncio.Event().wait()

    def connect():
        connect.kept.append(asyncio.get_running_loop().create_task(refresh()))

    def spawn(function):
        connect.kept.append(asyncio.get_running_loop().create_task(function()))

    connect.kept = []
    """
OFFER = "if it is meant to stay, add to leaks_ignore: "


def test_a_report_offers_the_line_that_keeps_a_watcher_of_a_library(project: Project) -> None:
    """As it stands, it can be put into the ini file; the leaks of the user's own code stay."""
    library = project.path / "site-packages"
    library.mkdir()
    project.write(WATCHER, "site-packages/watcher.py")
    project.pytester.syspathinsert(library)
    project.write("""
        import asyncio
        import pytest
        import watcher

        pytestmark = pytest.mark.asyncio

        async def own():
            await asyncio.Event().wait()

        async def test_thread():
            watcher.Watcher().start()

        async def test_task():
            watcher.connect()

        async def test_two():
            watcher.connect()
            watcher.connect()

        async def test_own():
            watcher.spawn(own)
        """)
    project.ini("leaks = strict", "leaks_budget = 0.02")

    made = project.line("task(refresh", "site-packages/watcher.py").rpartition("/")[2]
    offered = [line for line in project.run().outlines if OFFER in line]
    # Where CI is set, pytest's summary has the whole report a second time.
    lines = list(dict.fromkeys(line.partition(OFFER)[2] for line in offered))
    ignores = "\n    ".join(["leaks_ignore =", *lines])
    project.ini("leaks = strict", "leaks_budget = 0.02", ignores)
    result = project.run("-rA")

    assert lines == [
        "created_by Watcher.start  # the library keeps one for the process",
        f"created_by {made}  # the library keeps one for the process",
    ]
    result.stdout.fnmatch_lines(["PASSED *::test_thread", "PASSED *::test_task"])
    result.stdout.fnmatch_lines(["FAILED *::test_own - *"])
    result.assert_outcomes(passed=3, failed=1)
