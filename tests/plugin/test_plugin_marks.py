"""The markers, which check one test or exempt it."""

import textwrap
from typing import Any

import pytest

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

HEAD = """
    import asyncio

    import pytest

    from muxleak import ignore_created_by, ignore_name

    KEPT = []

    async def watch():
        await asyncio.Event().wait()

    def start():
        KEPT.append(asyncio.create_task(watch()))
    """


def suite(text: str) -> str:
    """A test file that can start a task nobody ends."""
    return textwrap.dedent(HEAD) + textwrap.dedent(text)


def failed(result: pytest.RunResult) -> list[str]:
    """The names of the tests that failed."""
    lines = (line for line in result.outlines if line.startswith("FAILED"))
    return [line.split("::")[-1].split()[0] for line in lines]


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_no_leaks_holds_whatever_the_mode(project: Project, mode: str) -> None:
    """A marked test fails when it leaks; other tests follow the mode."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        @pytest.mark.no_leaks
        async def test_marked():
            start()

        @pytest.mark.no_leaks
        async def test_clean():
            await asyncio.sleep(0)

        async def test_unmarked():
            start()
        """)
    )

    result = project.run(f"--leaks={mode}")
    assert failed(result) == ["test_marked"] + ["test_unmarked"] * (mode == "strict")


def test_no_leaks_puts_asyncio_back_after_a_marked_test(project: Project) -> None:
    """With leaks = off, only marked tests run on a watched loop, also if the loop is shared."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        def watched():
            loop = asyncio.get_running_loop()
            base = asyncio.BaseEventLoop.run_forever.__code__.co_filename
            return loop.get_task_factory() is not None, "close" in vars(loop), "muxleak" in base

        async def test_before():
            assert watched() == (False, False, False)

        @pytest.mark.no_leaks
        async def test_marked():
            assert watched() == (True, True, True)

        @pytest.mark.no_leaks
        async def test_leaks():
            start()

        async def test_after():
            assert watched() == (False, False, False)
        """)
    )

    assert failed(project.run()) == ["test_leaks"]


def test_no_leaks_has_options_for_one_test(project: Project) -> None:
    """Kinds, ignores and the budget are the test's own."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        @pytest.mark.no_leaks(kinds=["timer"])
        async def test_other_kind():
            start()

        @pytest.mark.no_leaks(kinds="task")
        async def test_this_kind():
            start()

        @pytest.mark.no_leaks(ignore=ignore_name("watch", reason="stays"))
        async def test_ignored():
            start()

        @pytest.mark.no_leaks(ignore=[ignore_created_by("main", reason="not this one")])
        async def test_not_ignored():
            start()

        @pytest.mark.no_leaks(budget=0.05)
        async def test_late():
            KEPT.append(asyncio.create_task(asyncio.sleep(60)))

        @pytest.mark.no_leaks(budget=60)
        async def test_late_within():
            KEPT.append(asyncio.create_task(asyncio.sleep(0.1)))
        """)
    )

    assert failed(project.run()) == ["test_this_kind", "test_not_ignored", "test_late"]


def test_no_leaks_repeats_a_test(project: Project) -> None:
    """With repeat only growth is a leak: a task made once and kept is none."""
    project.write(
        suite("""
        pytestmark = [pytest.mark.asyncio, pytest.mark.no_leaks(repeat=6)]
        RUNS = []

        async def test_made_once():
            RUNS.append(1)
            if not KEPT:
                start()

        async def test_grows():
            start()

        async def test_ran():
            assert len(RUNS) == 6
        """).replace("test_ran():\n    ", "test_ran(once=[]):\n    ")
    )

    result = project.run("-p", "no:randomly")
    assert failed(result) == ["test_grows"]
    result.stdout.fnmatch_lines(
        [
            "still growing after 6 repetitions: +1 task",
            "  * x watch",
            "*1 test left something behind",
        ]
    )


def test_leaks_allowed_excuses_one_test(project: Project) -> None:
    """Its leaks are not checked; those of other tests are."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest.mark.leaks_allowed(reason="the daemon is meant to stay")
        async def test_daemon():
            start()

        async def test_leaks():
            start()

        @pytest.mark.leaks_allowed("the same")
        async def test_daemon_too():
            start()
        """)
    )

    assert failed(project.run("--leaks=strict")) == ["test_leaks"]


def test_the_nearest_marker_counts(project: Project) -> None:
    """The marker of a test overrides that of its module."""
    project.write(
        suite("""
        pytestmark = [pytest.mark.asyncio, pytest.mark.leaks_allowed(reason="old tests")]

        async def test_old():
            start()

        @pytest.mark.no_leaks
        async def test_new():
            start()
        """)
    )

    assert failed(project.run("--leaks=strict")) == ["test_new"]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (
            "no_leaks(kind='task')",
            "*test_it: mark no_leaks takes kinds, budget, ignore, repeat *kind",
        ),
        (
            "no_leaks('task')",
            "*mark no_leaks takes kinds, budget, ignore, repeat by keyword*'task'",
        ),
        ("no_leaks(kinds=['fish'])", "*mark no_leaks: unknown kinds*'fish'*'callback'*'timer'*"),
        ("no_leaks(budget=0)", "*mark no_leaks: expected a budget in seconds above 0, got 0"),
        ("no_leaks(ignore='watch')", "*expected ignore values*make them with ignore_created_by*"),
        ("no_leaks(repeat=1)", "*mark no_leaks: expected at least 4 repetitions, got 1"),
        ("leaks_allowed", '*leaks_allowed takes one reason*reason="*got []'),
        ("leaks_allowed(reason='')", "*leaks_allowed takes one reason*"),
        ("leaks_allowed(why='x')", "*leaks_allowed takes one reason*"),
        ("leaks_allowed('a', reason='b')", "*leaks_allowed takes one reason*"),
    ],
)
@pytest.mark.parametrize("mode", ["off", "strict"])
def test_markers_refuse_what_they_do_not_know(
    project: Project, mark: str, message: str, mode: str
) -> None:
    """A usage error that names the test and lists what is valid."""
    project.write(
        suite(f"""
        @pytest.mark.{mark}
        async def test_it():
            pass
        """)
    )

    result = project.run(f"--leaks={mode}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_repeat_needs_an_async_test(project: Project) -> None:
    """A test that is not async cannot be measured for growth."""
    project.write(
        suite("""
        @pytest.mark.no_leaks(repeat=6)
        def test_it():
            pass
        """)
    )

    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it: mark no_leaks: repeat needs a plain async test, got *"])


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_repeated_tests_ignore_references_of_the_plugin(project: Project, mode: str) -> None:
    """A task that only the plugin holds is not retained; a task in a list is. In every mode."""
    project.write(
        suite("""
        from muxleak import no_leaks

        async def drop():
            await asyncio.create_task(asyncio.sleep(0))

        async def keep():
            KEPT.append(asyncio.create_task(asyncio.sleep(0)))
            await KEPT[-1]

        def repeated(function):
            return no_leaks(repeat=6, budget=0.05)(function)

        test_drop = pytest.mark.asyncio(repeated(drop))
        test_keep = pytest.mark.asyncio(repeated(keep))

        def test_drop_in_a_loop_of_its_own():
            asyncio.run(repeated(drop)())

        def test_keep_in_a_loop_of_its_own():
            asyncio.run(repeated(keep)())
        """)
    )

    result = project.run(f"--leaks={mode}", "-p", "no:randomly")
    result.assert_outcomes(passed=2, failed=2)
    assert failed(result) == ["test_keep", "test_keep_in_a_loop_of_its_own"]


def test_markers_are_registered(project: Project) -> None:
    """They pass under --strict-markers."""
    project.write(
        suite("""
        @pytest.mark.no_leaks
        @pytest.mark.leaks_allowed(reason="one of them wins")
        def test_it():
            pass
        """)
    )

    project.run("--strict-markers").assert_outcomes(passed=1)


PYLEAK = ("'tasks'", "tasks=True, threads=False", "blocking=True", "'all', exclude_daemon=True")
WHERE = "left alone; muxleak's marker takes kinds, budget, ignore, repeat by keyword"


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
@pytest.mark.parametrize("arguments", PYLEAK)
def test_marker_of_another_tool_is_left_alone(project: Project, arguments: str, mode: str) -> None:
    """The test is checked as one without a marker, and one line says so."""
    project.write(
        suite(f"""
        pytestmark = pytest.mark.asyncio

        @pytest.mark.no_leaks({arguments})
        async def test_marked():
            start()

        @pytest.mark.no_leaks({arguments})
        async def test_clean():
            pass
        """)
    )

    result = project.run(f"--leaks={mode}", "-Wignore::muxleak.plugin.LeakWarning")
    assert failed(result) == ["test_marked"] * (mode == "strict")
    lines = [each for each in result.outlines if WHERE in each]
    assert len(lines) == 1
    assert lines[0].startswith("2 markers no_leaks with arguments of another tool")


def test_marker_of_another_tool_hides_none_of_ours(project: Project) -> None:
    """The nearest marker that is ours counts."""
    project.write(
        suite("""
        pytestmark = [pytest.mark.asyncio, pytest.mark.no_leaks(kinds="task")]

        @pytest.mark.no_leaks("tasks")
        async def test_both():
            start()
        """)
    )

    assert failed(project.run()) == ["test_both"]


OWNERS = {
    "pyleak": "pytest_plugins = ['pyleak']",
    "declared": """
        def pytest_configure(config):
            config.addinivalue_line("markers", "no_leaks: of this project")
        """,
    "ini": "",
    "nobody": "",
}


@pytest.mark.parametrize("owner", OWNERS)
def test_bare_marker_belongs_to_the_plugin_that_has_one(project: Project, owner: str) -> None:
    """With pyleak, or a project's own marker of that name; else it is ours.

    A line in the ini file tells nothing: `--strict-markers` asks for one where muxleak is absent.
    """
    project.write("", "pyleak.py")
    if owner == "ini":
        project.ini("markers = no_leaks: checked where muxleak is installed")
    project.write(OWNERS[owner], "conftest.py")
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        @pytest.mark.no_leaks
        async def test_bare():
            start()

        @pytest.mark.no_leaks("tasks")
        async def test_clean():
            pass

        @pytest.mark.no_leaks(kinds="task")
        async def test_ours():
            start()
        """)
    )

    result = project.run()
    ours = owner in {"ini", "nobody"}
    assert failed(result) == ["test_bare"] * ours + ["test_ours"]
    assert (WHERE in result.stdout.str()) is ours


def test_marker_of_another_tool_costs_nothing_when_off(project: Project) -> None:
    """No hook of a test is registered, and asyncio is as it was."""
    project.write(
        suite("""
        @pytest.mark.no_leaks("tasks")
        def test_it(pytestconfig):
            assert not pytestconfig.pluginmanager.has_plugin("muxleak-attribution")
            assert "muxleak" not in asyncio.BaseEventLoop.run_forever.__code__.co_filename
        """)
    )

    project.run().assert_outcomes(passed=1)
