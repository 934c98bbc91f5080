"""A user's project: the plugin is installed and not imported, beside other plugins."""

import importlib.util
import textwrap
from typing import Any

import pytest

pytest_plugins = ["pytester"]

# Each starts a Python that loads every installed plugin.
pytestmark = pytest.mark.slow

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

needs_xdist = pytest.mark.skipif(
    importlib.util.find_spec("xdist") is None,
    reason="needs pytest-xdist: pip install pytest-xdist (the extra `dev` has it)",
)
needs_anyio = pytest.mark.skipif(
    importlib.util.find_spec("anyio") is None,
    reason="needs anyio: pip install anyio (the extra `dev` has it)",
)
needs_uvloop = pytest.mark.skipif(
    importlib.util.find_spec("uvloop") is None,
    reason="needs uvloop: pip install uvloop (the extra `dev` has it)",
)
WORKERS = pytest.mark.parametrize(
    "workers", [[], pytest.param(["-n", "2"], marks=needs_xdist)], ids=["alone", "xdist"]
)

CHAT = '''
    """Tests of a chat server."""

    import asyncio

    import pytest

    pytestmark = pytest.mark.asyncio(loop_scope="{scope}")

    PINGERS = set()


    async def ping(interval):
        while True:
            await asyncio.sleep(interval)


    def connect():
        PINGERS.add(asyncio.create_task(ping(30)))


    async def test_join():
        await asyncio.sleep(0)


    async def test_say():
        connect()
        await asyncio.sleep(0)


    async def test_leave():
        connect()
        for task in PINGERS:
            task.cancel()
        await asyncio.sleep(0)


    async def test_kick():
        connect()
        assert len(PINGERS) == 99


    async def test_quit():
        await asyncio.sleep(0)
    '''


@WORKERS
@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_stranger_gets_the_leaking_test_named(
    project: Project, scope: str, workers: list[str]
) -> None:
    """It fails, with the line that made the task; the other tests pass."""
    project.write(CHAT.format(scope=scope))

    result = project.run_apart("--leaks=strict", "-rA", *workers)
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*___ test_say ___*",
            "1 task left behind",
            "  1 x ping",
            f"    made at {project.line('PINGERS.add')} in connect",
            f"    waits in ping ({project.line('sleep(interval)')}) on <Future pending>",
        ]
    )
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_say - *LeakError: 1 task left behind"])
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_kick - *assert*"])
    for name in ("join", "leave", "quit"):
        result.stdout.fnmatch_lines([f"PASSED test_it.py::test_{name}"])


@WORKERS
def test_stranger_keeps_a_baseline(project: Project, workers: list[str]) -> None:
    """One process and several write it, compare with it, and report an excess, in the same way."""
    project.write(CHAT.format(scope="module").replace("assert len(PINGERS) == 99", "pass"))
    options = ["--leaks=strict", "--leaks-baseline=leaks.toml", *workers]

    written = project.run_apart(*options, "--leaks-update")
    baseline = (project.path / "leaks.toml").read_text()
    obeyed = project.run_apart(*options)
    (project.path / "leaks.toml").write_text(baseline.replace(" = 1", " = 2"))
    tightened = project.run_apart(*options)

    assert written.ret == obeyed.ret == pytest.ExitCode.OK
    assert baseline.partition("\n\n")[2] == textwrap.dedent("""\
        ["test_it.py::test_kick"]
        "task test_it.py in connect" = 1

        ["test_it.py::test_say"]
        "task test_it.py in connect" = 1
        """)
    obeyed.stdout.fnmatch_lines(["2 tests left something behind: 0 new, 2 in the baseline"])
    assert tightened.ret == pytest.ExitCode.TESTS_FAILED
    tightened.stdout.fnmatch_lines(["*test_say: task test_it.py in connect (baseline 2, found 1)"])


@needs_xdist
def test_stranger_sees_a_vanished_test_with_xdist(project: Project) -> None:
    """Only the workers collect tests, so they report the missing ones."""
    project.write(CHAT.format(scope="function"))
    (project.path / "leaks.toml").write_text('["test_it.py::test_old"]\n"task x.py in f" = 1\n')

    result = project.run_apart("--leaks=warn", "--leaks-baseline=leaks.toml", "-n", "2")
    result.stdout.fnmatch_lines(["  test_it.py::test_old (there is no such test)"])


@needs_xdist
def test_stranger_gets_properties_and_usage_errors_with_xdist(project: Project) -> None:
    """JUnit's file has what the workers found; a wrong marker stops the run."""
    project.write(CHAT.format(scope="module"))
    project.run_apart("--leaks=strict", "-n", "2", "--junitxml=report.xml")
    report = (project.path / "report.xml").read_text()
    made = project.line("PINGERS.add")
    project.write("import pytest\n\n@pytest.mark.no_leaks(kind='x')\ndef test_it(): pass\n")
    wrong = project.run_apart("-n", "2")

    say = next(each for each in report.split("<testcase") if 'name="test_say"' in each)
    assert '<property name="muxleak.1.kind" value="task"' in say
    assert f'<property name="muxleak.1.site" value="{made} in connect"' in say
    assert '<property name="muxleak.1.count" value="1"' in say
    assert wrong.ret != pytest.ExitCode.OK
    wrong.stdout.fnmatch_lines(
        ["*ERROR at setup of test_it*", "*mark no_leaks takes kinds, budget, ignore, repeat*"]
    )


@needs_anyio
@pytest.mark.parametrize("scope", ["function", "module"])
def test_stranger_uses_anyio(project: Project, scope: str) -> None:
    """All run in one task of anyio's plugin: tests and fixtures are charged apart all the same."""
    project.write(f"""
        import asyncio
        import pytest

        pytestmark = pytest.mark.anyio
        KEPT = []

        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        async def watch():
            await asyncio.Event().wait()

        def start():
            KEPT.append(asyncio.create_task(watch()))

        @pytest.fixture(scope="{scope}")
        async def server(anyio_backend):
            task = asyncio.create_task(watch())
            yield
            task.cancel()

        @pytest.fixture
        async def client(server):
            start()
            yield
            KEPT.pop().cancel()

        @pytest.fixture
        async def leaky(server):
            start()

        class TestAll:
            @pytest.fixture
            async def method(self, server):
                self.value = 1
                start()
                yield self
                KEPT.pop().cancel()

            async def test_method(self, method):
                assert self.value == method.value == 1

        async def test_first(server):
            await asyncio.sleep(0)

        async def test_leaks(server, client):
            asyncio.get_running_loop().call_later(100, print)

        async def test_fixture_leaks(leaky):
            await asyncio.sleep(0)

        async def test_last(client):
            await asyncio.sleep(0)
        """)

    result = project.run_apart("--leaks=strict", "-rA")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*___ test_leaks ___*", "1 timer left behind"])
    result.stdout.fnmatch_lines(["*___ test_fixture_leaks ___*", "1 task left behind"])


@needs_anyio
def test_stranger_names_a_wide_fixture_of_anyio(project: Project) -> None:
    """It is charged itself, although it runs in a task that another test began."""
    project.write("""
        import asyncio
        import pytest

        pytestmark = pytest.mark.anyio
        KEPT = []

        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="module")
        async def settings(anyio_backend):
            yield

        @pytest.fixture(scope="module")
        async def server(settings):
            KEPT.append(asyncio.create_task(asyncio.Event().wait()))
            yield

        async def test_first(settings):
            await asyncio.sleep(0)

        async def test_second(server):
            await asyncio.sleep(0)
        """)

    result = project.run_apart("--leaks=strict")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["1 task left behind by test_it.py: fixture server (module scope)"])


@needs_anyio
@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_stranger_uses_hypothesis_with_anyio(project: Project, mode: str) -> None:
    """The examples run in the task that a wider fixture began; the test is charged all the same.

    It runs twice, once for each backend's parameter, and anyio keeps its own wrapper in between.
    """
    project.write("""
        import asyncio
        import pytest
        from hypothesis import given, settings, strategies as st

        pytestmark = pytest.mark.anyio
        KEPT = []

        @pytest.fixture(scope="module", params=[False, True])
        def anyio_backend(request):
            return "asyncio", {"debug": request.param}

        @pytest.fixture(scope="module")
        async def shared(anyio_backend):
            yield 1

        @settings(max_examples=3)
        @given(number=st.integers())
        async def test_leaks(shared, number):
            KEPT.append(asyncio.create_task(asyncio.Event().wait()))

        @settings(max_examples=3)
        @given(number=st.integers())
        async def test_clean(shared, number):
            await asyncio.sleep(0)

        class TestMethods:
            @settings(max_examples=1)
            @given(number=st.integers())
            async def test_method(self, shared, number):
                KEPT.append(asyncio.create_task(asyncio.Event().wait()))

        async def test_last(shared):
            await asyncio.sleep(0)
        """)

    result = project.run_apart(f"--leaks={mode}", "-rA")
    leaks = 4 if mode == "strict" else 0
    result.assert_outcomes(passed=8 - leaks, failed=leaks)
    failed = [line for line in result.outlines if line.startswith("FAILED")]
    assert all("test_leaks" in line or "test_method" in line for line in failed)
    if mode == "strict":
        result.stdout.fnmatch_lines(["3 tasks left behind", "  3 x Event.wait"])


@pytest.mark.parametrize("method", ["signal", "thread"])
@pytest.mark.parametrize("only", ["true", "false"])
def test_stranger_uses_pytest_timeout(project: Project, method: str, only: str) -> None:
    """Its timer thread is no leak, and a test that times out shows where it was."""
    project.ini(f"timeout_method = {method}", f"timeout_func_only = {only}", "timeout = 20")
    project.write("""
        import asyncio
        import pytest

        @pytest.mark.asyncio
        async def test_clean():
            await asyncio.sleep(0)

        @pytest.mark.asyncio
        async def test_leaks(kept=[]):
            kept.append(asyncio.create_task(asyncio.Event().wait()))
        """)

    result = project.run_apart("--leaks=strict")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["1 task left behind"])


def test_stranger_whose_test_times_out_sees_where_it_waits(project: Project) -> None:
    """The timeout stays the failure."""
    project.write("""
        import asyncio
        import pytest

        async def receive():
            await asyncio.Event().wait()

        @pytest.mark.timeout(0.2, method="signal")
        @pytest.mark.asyncio
        async def test_hangs():
            await receive()

        @pytest.mark.asyncio
        async def test_after():
            await asyncio.sleep(0)
        """)

    result = project.run_apart("--leaks=strict")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Left behind*",
            "  1 x task destroyed while pending: test_hangs",
            "*it waited in receive*",
        ]
    )
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_hangs - Failed: Timeout*"])


@WORKERS
def test_stranger_whose_task_swallows_cancellation_sees_the_run_end(
    project: Project, workers: list[str]
) -> None:
    """In every mode; the report names the frame that swallowed it."""
    project.write("""
        import asyncio
        import pytest

        KEPT = []

        async def poll():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue

        @pytest.mark.asyncio
        async def test_polls():
            KEPT.append(asyncio.create_task(poll()))

        @pytest.mark.asyncio(loop_scope="module")
        async def test_polls_on_a_shared_loop():
            KEPT.append(asyncio.create_task(poll()))

        @pytest.mark.asyncio(loop_scope="module")
        async def test_after():
            await asyncio.sleep(0)
        """)

    strict = project.run_apart("--leaks=strict", *workers)
    strict.assert_outcomes(passed=1, failed=2)
    strict.stdout.fnmatch_lines(["*poll swallowed its cancellation in poll (test_it.py:*"])
    warned = project.run_apart("--leaks=warn", *workers)
    warned.assert_outcomes(passed=3, warnings=2)


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_stranger_runs_a_web_app(project: Project, mode: str) -> None:
    """Its library ends the tasks that are left by itself; they are measured before."""
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install aiohttp")
    project.write("""
        import asyncio
        import os
        import signal
        import pytest
        from aiohttp import web

        KEPT = []

        @pytest.mark.parametrize("leaks", [True, False])
        def test_app(leaks):
            async def begin(app):
                if leaks:
                    KEPT.append(asyncio.create_task(asyncio.Event().wait()))

            app = web.Application()
            app.on_startup.append(begin)
            stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
            web.run_app(app, host="127.0.0.1", port=0, print=stop)

        def test_after():
            asyncio.run(asyncio.sleep(0))
        """)

    result = project.run_apart(f"--leaks={mode}", "-rA")
    if mode == "strict":
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["FAILED test_it.py::test_app?True? - *1 task left behind"])
    else:
        result.assert_outcomes(passed=3, warnings=int(mode == "warn"))


@needs_uvloop
def test_stranger_uses_uvloop(project: Project) -> None:
    """Loops of uvloop are watched from their first run on."""
    project.write("""
        import asyncio
        import uvloop

        KEPT = []

        async def watch():
            await asyncio.Event().wait()

        async def main():
            KEPT.append(asyncio.create_task(watch()))

        async def serve():
            KEPT.append(await asyncio.start_server(print, "127.0.0.1", 0))

        def test_clean():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(asyncio.sleep(0))

        def test_leaks():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())

        def test_serves():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        """)

    result = project.run_apart("--leaks=strict")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["1 task left behind"])
    result.stdout.fnmatch_lines(["1 server left behind"])


@needs_uvloop
@pytest.mark.parametrize("program", ["test", "decorated"])
def test_stranger_imports_uvloop_in_a_function(project: Project, program: str) -> None:
    """Its first loop is watched, too: the hooks are in place when the import ends."""
    project.write("""
        import asyncio
        import pytest
        from muxleak import LeakError, no_leaks

        KEPT = []

        async def main(leaks):
            if leaks:
                KEPT.append(asyncio.create_task(asyncio.Event().wait()))

        def run(leaks):
            import uvloop
            uvloop.run(main(leaks))

        def test_leaks():
            run(True)

        def test_clean():
            run(False)

        def test_decorated():
            with pytest.raises(LeakError, match="1 task leaked"):
                no_leaks(run)(True)
            no_leaks(run)(False)
        """)

    if program == "decorated":
        project.run_apart("-k", "decorated").assert_outcomes(passed=1, deselected=2)
    else:
        result = project.run_apart("--leaks=strict", "-k", "not decorated", "-rA")
        result.assert_outcomes(passed=1, failed=1, deselected=1)
        result.stdout.fnmatch_lines(["FAILED test_it.py::test_leaks - *"])


@pytest.mark.parametrize("mode", ["off", "strict"])
def test_stranger_without_asyncio_pays_little(project: Project, mode: str) -> None:
    """Plain tests pass in every mode, without a word about leaks."""
    project.write("def test_it():\n    assert True\n")

    result = project.run_apart(f"--leaks={mode}")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*left something behind*")
