"""Runners that hide the bodies of their tests: named once, and a strict run fails.

The runners are stand-ins here; `test_plugin_others` installs the real ones.
"""

import importlib.util
import textwrap
from typing import Any

import pytest

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

# As pytest-run-parallel does at the end of the collection, and with the marker of
# pytest-asyncio-cooperative; both under the names by which pytest knows them.
CONFTEST = """
    import functools
    import pytest

    class Named:
        pass

    def pytest_configure(config):
        config.addinivalue_line("markers", "asyncio_cooperative: run beside others")
        config.pluginmanager.register(Named(), "asyncio-cooperative")
        config.pluginmanager.register(Named(), "run-parallel")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(session):
        from pytest_run_parallel.plugin import threaded
        for item in session.items:
            if item.name.startswith("test_threaded"):
                item.obj = threaded(item.obj)
    """
PARALLEL = """
    import functools

    def threaded(function):
        @functools.wraps(function)
        def inner(*args, **settings):
            return function(*args, **settings)
        return inner
    """
TESTS = """
    import pytest

    @pytest.mark.asyncio_cooperative
    def test_one(): pass

    @pytest.mark.asyncio_cooperative
    def test_two(): pass

    def test_threaded(): pass

    def test_seen(): pass
    """
COOPERATIVE = (
    "2 tests cannot be checked under pytest-asyncio-cooperative: it runs their bodies before any "
    "hook of a test; run them by another runner, or mark them leaks_allowed (first: *::test_one)"
)
THREADS = "1 test cannot be checked under pytest-run-parallel: it runs their bodies in threads*"


@pytest.fixture
def hidden(project: Project) -> Any:
    """A project with two runners that hide tests."""
    project.write(CONFTEST, "conftest.py")
    (project.path / "pytest_run_parallel").mkdir()
    project.write("", "pytest_run_parallel/__init__.py")
    project.write(PARALLEL, "pytest_run_parallel/plugin.py")
    project.write(TESTS)
    project.pytester.syspathinsert()
    return project


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_hidden_tests_are_named_and_fail_a_strict_run(hidden: Project, mode: str) -> None:
    """Each test keeps its outcome; with leaks = off nothing is said."""
    result = hidden.run(f"--leaks={mode}")

    result.assert_outcomes(passed=4, warnings=0)
    assert result.ret == (1 if mode == "strict" else 0)
    if mode == "off":
        result.stdout.no_fnmatch_line("*cannot be checked*")
    else:
        result.stdout.fnmatch_lines([COOPERATIVE, THREADS])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("xdist") is None,
    reason="needs pytest-xdist: pip install pytest-xdist (the extra `dev` has it)",
)
def test_hidden_tests_are_named_once_with_xdist(hidden: Project) -> None:
    """Only the workers collect tests; each finds the same."""
    result = hidden.run_apart("--leaks=strict", "-n", "2")

    result.assert_outcomes(passed=4)
    assert result.ret == 1
    assert result.stdout.str().count("cannot be checked") == 2
    result.stdout.fnmatch_lines([COOPERATIVE, THREADS])


def test_hidden_tests_may_be_allowed(hidden: Project) -> None:
    """The marker says that nothing is checked; then nothing is promised."""
    allowed = '\n    pytestmark = pytest.mark.leaks_allowed(reason="another runner")\n'
    hidden.write(TESTS.replace("import pytest\n", f"import pytest\n{allowed}", 1))

    result = hidden.run("--leaks=strict")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*cannot be checked*")


def test_a_hidden_test_fails_its_own_no_leaks(hidden: Project) -> None:
    """Whatever the mode; only that test is named."""
    hidden.write(TESTS.replace("@pytest", "@pytest.mark.no_leaks\n    @pytest", 1))

    result = hidden.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["1 test cannot be checked under pytest-asyncio-cooperative*"])
    result.stdout.no_fnmatch_line("*run-parallel*")


ALT = """
    import contextvars
    import pytest

    class AltPytestAsyncioPlugin:
        def __init__(self):
            if {shown}:
                self._converter = type("Converter", (), {{"_ctx": contextvars.copy_context()}})()

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(self, pyfuncitem):
            if hasattr(self, "_converter"):
                return self._converter._ctx.run(lambda: pyfuncitem.obj() or True)
    """


@pytest.mark.parametrize("shown", [True, False])
def test_a_runner_with_a_context_of_its_own_is_followed(project: Project, shown: bool) -> None:  # noqa: FBT001
    """The scope is set there, too; if the context cannot be found, its tests cannot be checked."""
    (project.path / "alt_pytest_asyncio").mkdir()
    project.write("", "alt_pytest_asyncio/__init__.py")
    project.write(ALT.format(shown=shown), "alt_pytest_asyncio/plugin.py")
    project.write(
        """
        def pytest_configure(config):
            from alt_pytest_asyncio.plugin import AltPytestAsyncioPlugin
            config.pluginmanager.register(AltPytestAsyncioPlugin())
        """,
        "conftest.py",
    )
    project.write("""
        import asyncio

        KEPT = []

        async def main():
            KEPT.append(asyncio.create_task(asyncio.Event().wait()))

        def test_leaks():
            asyncio.run(main())

        def test_clean():
            asyncio.run(asyncio.sleep(0))
        """)
    project.pytester.syspathinsert()

    result = project.run("--leaks=strict")
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1)
    line = "2 tests cannot be checked under alt-pytest-asyncio: it runs their bodies in a context*"
    (result.stdout.no_fnmatch_line if shown else result.stdout.fnmatch_lines)(
        line if shown else [line]
    )


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_hypofuzz_is_told(project: Project, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It calls no hook of a test, and prints no summary: so a strict session is refused."""
    source = "class _ItemsCollector: pass"
    (project.path / "hypofuzz").mkdir()
    project.write("", "hypofuzz/__init__.py")
    project.write(source, "hypofuzz/collection.py")
    project.write(
        textwrap.dedent("""
        def pytest_configure(config):
            from hypofuzz.collection import _ItemsCollector
            config.pluginmanager.register(_ItemsCollector())
        """),
        "conftest.py",
    )
    project.write("def test_it(): pass")
    project.pytester.syspathinsert()

    result = project.run(f"--leaks={mode}", "--collect-only")
    said = result.stdout.str() + result.stderr.str() + capfd.readouterr().err
    assert result.ret == (4 if mode == "strict" else 0)
    assert ("cannot be checked for leaks" in said) is (mode != "off")
