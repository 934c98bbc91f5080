"""Attribution: a leak fails the test or fixture that made it, and no other."""

import textwrap
from typing import Any

import pytest

from loops import needs_uvloop

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

WATCH = """
    import asyncio
    import unittest

    import pytest
    import pytest_asyncio

    KEPT = []

    async def watch():
        await asyncio.Event().wait()

    def start():
        KEPT.append(asyncio.create_task(watch()))
    """


def suite(text: str) -> str:
    """A test file that can start a task nobody ends."""
    return textwrap.dedent(WATCH) + textwrap.dedent(text)


def outcomes(result: pytest.RunResult) -> dict[str, str]:
    """Return the outcome of each test, as `-rA` prints it."""
    words = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")
    pairs = [line.split() for line in result.outlines if line.startswith(words)]
    return {name.rpartition("::")[2]: word for word, name, *_ in pairs if "::" in name}


def test_a_leak_fails_the_test_that_made_it(project: Project) -> None:
    """With the line that made the task and the line where it waits; the other tests pass."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        async def test_before():
            await asyncio.sleep(0)

        async def test_leaks():
            start()
            await asyncio.sleep(0)

        async def test_after():
            await asyncio.sleep(0)
        """)
    )

    result = project.run("--leaks=strict", "-rA")
    made, waits = project.line("KEPT.append"), project.line("Event().wait()")
    assert outcomes(result) == {
        "test_before": "PASSED",
        "test_leaks": "FAILED",
        "test_after": "PASSED",
    }
    result.stdout.fnmatch_lines(
        [
            "*___ test_leaks ___*",
            "1 task left behind",
            "  1 x watch",
            f"    made at {made} in start",
            f"    waits in watch ({waits}) on *Event*",
            "FAILED test_it.py::test_leaks - *LeakError: 1 task left behind",
        ]
    )


@pytest.mark.parametrize("mode", ["strict", "auto"])
@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
def test_tests_on_a_shared_loop_are_charged_apart(project: Project, scope: str, mode: str) -> None:
    """Each only with its own tasks."""
    project.ini(f"asyncio_mode = {mode}")
    project.write(
        suite(f"""
        @pytest.mark.asyncio(loop_scope="{scope}")
        class TestAll:
            async def test_before(self):
                await asyncio.sleep(0)

            async def test_leaks(self):
                start()

            async def test_leaks_too(self):
                start()
                await asyncio.sleep(0)

            async def test_after(self):
                await asyncio.sleep(0)
        """)
    )

    result = project.run("--leaks=strict", "-rA")
    assert outcomes(result) == {
        "test_before": "PASSED",
        "test_leaks": "FAILED",
        "test_leaks_too": "FAILED",
        "test_after": "PASSED",
    }


def test_first_user_of_a_wide_fixture_is_not_charged(project: Project) -> None:
    """A task of a module's fixture is its own, and no leak if its teardown ends it."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def server():
            task = asyncio.create_task(watch())
            yield
            task.cancel()

        @pytest_asyncio.fixture(loop_scope="module")
        async def client(server):
            task = asyncio.create_task(watch())
            yield
            task.cancel()

        async def test_first(server):
            await asyncio.sleep(0)

        async def test_second(client, server):
            await asyncio.sleep(0)

        async def test_last(client):
            start()
        """)
    )

    result = project.run("--leaks=strict", "-rA")
    assert outcomes(result) == {
        "test_first": "PASSED",
        "test_second": "PASSED",
        "test_last": "FAILED",
    }
    result.assert_outcomes(passed=2, failed=1)


def test_a_wide_fixture_that_leaks_is_named(project: Project) -> None:
    """It is an error of its teardown; the tests that used it pass."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def server():
            start()
            yield

        async def test_first(server):
            await asyncio.sleep(0)

        async def test_second(server):
            await asyncio.sleep(0)
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_second*",
            "1 task left behind by test_it.py: fixture server (module scope)",
            "1 fixture left something behind",
        ]
    )


def test_a_test_in_setup_is_not_charged_for_a_fixture_that_ends(project: Project) -> None:
    """A parametrized fixture ends in the setup of the next test: the test passes, the run fails."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio(loop_scope="session")

        @pytest_asyncio.fixture(scope="session", loop_scope="session", params=["a", "b"])
        async def server(request):
            if request.param == "a":
                start()
            yield

        async def test_it(server):
            await asyncio.sleep(0)
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["1 task left behind by *fixture server (session scope)"])


def test_teardown_of_own_fixtures_is_charged(project: Project) -> None:
    """A task that a fixture ends is no leak; a task that its teardown starts is one."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        @pytest_asyncio.fixture
        async def ends():
            yield
            KEPT.pop().cancel()

        @pytest_asyncio.fixture
        async def starts():
            yield
            start()

        async def test_ended(ends):
            start()

        async def test_started(starts):
            pass
        """)
    )

    assert outcomes(project.run("--leaks=strict", "-rA")) == {
        "test_ended": "PASSED",
        "test_started": "FAILED",
    }


def test_a_failed_test_keeps_its_failure(project: Project) -> None:
    """The leak is a section of the report."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        async def test_fails():
            start()
            assert 1 == 2
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*assert 1 == 2", "*Left behind*", "  1 x watch"])
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_fails - assert 1 == 2"])


def test_a_failed_setup_keeps_its_error(project: Project) -> None:
    """With the traceback; the leak is a section of the report."""
    project.write(
        suite("""
        @pytest_asyncio.fixture
        async def broken():
            start()
            raise OSError("no server")

        @pytest.mark.asyncio
        async def test_it(broken):
            pass
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*OSError: no server", "*Left behind*", "  1 x watch"])


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("pytest.mark.xfail(raises=AssertionError, strict=True)", "xfailed"),
        ("pytest.mark.xfail(raises=OSError, strict=True)", "failed"),
        ("pytest.mark.skipif(True, reason='not today')", "skipped"),
    ],
)
def test_marks_of_pytest_apply_to_leaks(project: Project, mark: str, expected: str) -> None:
    """A leak is an AssertionError of the call, which xfail expects like any other."""
    project.write(
        suite(f"""
        @{mark}
        @pytest.mark.asyncio
        async def test_it():
            start()
        """)
    )

    project.run("--leaks=strict").assert_outcomes(**{expected: 1})


def test_a_test_that_skips_after_its_leak_fails(project: Project) -> None:
    """The skip does not excuse the leak."""
    project.write(
        suite("""
        @pytest.mark.asyncio
        async def test_it():
            start()
            pytest.skip("no network")
        """)
    )

    project.run("--leaks=strict").assert_outcomes(failed=1)


def test_loops_of_plain_tests_are_found(project: Project) -> None:
    """`asyncio.run`, a runner, a loop made by hand, and unittest's asynchronous case."""
    project.write(
        suite("""
        async def main():
            start()

        def test_run():
            asyncio.run(main())

        def test_run_twice():
            asyncio.run(asyncio.sleep(0))
            asyncio.run(main())

        def test_runner():
            with asyncio.Runner() as runner:
                runner.run(main())

        def test_by_hand():
            loop = asyncio.new_event_loop()
            KEPT.append(loop.create_task(watch()))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        def test_never_closed():
            loop = asyncio.new_event_loop()
            KEPT.append(loop)
            loop.run_until_complete(main())

        class TestCase(unittest.IsolatedAsyncioTestCase):
            async def test_case(self):
                start()

            async def test_clean_case(self):
                await asyncio.sleep(0)

        def test_clean_run():
            asyncio.run(asyncio.sleep(0))

        def test_clean_by_hand():
            loop = asyncio.new_event_loop()
            task = loop.create_task(watch())
            loop.run_until_complete(asyncio.sleep(0))
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
            loop.close()

        def test_never_closed_after():
            [loop] = [each for each in KEPT if isinstance(each, asyncio.AbstractEventLoop)]
            loop.close()
        """)
    )

    result = outcomes(project.run("--leaks=strict", "-rA", "-Wignore::ResourceWarning"))
    failed = ["run", "run_twice", "runner", "by_hand", "never_closed", "case"]
    assert [name for name, word in result.items() if word == "FAILED"] == [
        f"test_{name}" for name in failed
    ]
    assert list(result.values()).count("PASSED") == 4


@pytest.mark.slow
def test_every_kind_is_attributed(project: Project) -> None:
    """A timer, a server, a transport, a generator, a thread: each with its line."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        async def rows():
            yield 1

        async def test_timer():
            asyncio.get_running_loop().call_later(100, print)

        async def test_generator():
            generator = rows()
            KEPT.append(generator)
            await anext(generator)

        async def test_server():
            KEPT.append(await asyncio.start_server(print, "127.0.0.1", 0))

        async def test_datagrams():
            loop = asyncio.get_running_loop()
            KEPT.append(await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, ("127.0.0.1", 0)
            ))

        async def test_error():
            async def fail():
                raise OSError("nobody asks")
            KEPT.append(asyncio.create_task(fail()))
            await asyncio.sleep(0)
            KEPT.pop()
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(
        [
            "1 timer left behind",
            "  1 x timer: print",
            f"    made at {project.line('call_later')} in test_timer",
            "1 async generator left behind",
            "  1 x async generator: rows",
            f"    made at {project.line('anext(')} in test_generator",
            "1 server left behind",
            "  1 x server: server",
            f"    made at {project.line('start_server')} in test_server",
            "1 transport left behind",
            "  1 x transport: datagram endpoint",
            f"    made at {project.line('await loop.create')} in test_datagrams",
            "1 exception never retrieved left behind",
        ]
    )


# In the form of the tests that follow it.
PLAIN = """
        import concurrent.futures
        import socket
        import threading

        @pytest.fixture
        def pair():
            pair = socket.socketpair()
            yield pair
            for each in pair:
                each.close()

        @pytest.fixture
        def timers(request):
            handles = []
            request.addfinalizer(lambda: [each.cancel() for each in handles])
            return handles

        @pytest.fixture
        def pool():
            with concurrent.futures.ThreadPoolExecutor() as pool:
                yield pool

        @pytest.fixture
        def stop():
            stop = threading.Event()
            yield stop
            stop.set()
            for each in KEPT:
                each.join()
            KEPT.clear()

        @pytest.fixture
        def unrelated():
            yield
"""


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_plain_fixtures_end_what_needs_no_loop(project: Project, mode: str) -> None:
    """They are torn down when the loop of the test has ended, and have their chance."""
    project.ini("asyncio_mode = auto", "leaks_budget = 0.05")
    project.write(
        suite(
            PLAIN
            + """
        async def test_reader(pair):
            asyncio.get_running_loop().add_reader(pair[0], lambda: None)

        async def test_timer(timers):
            timers.append(asyncio.get_running_loop().call_later(60, print))

        async def test_pool(pool, stop):
            asyncio.get_running_loop().run_in_executor(pool, stop.wait)

        async def test_thread(stop):
            KEPT.append(threading.Thread(target=stop.wait))
            KEPT[0].start()

        def test_sync(pair, timers):
            async def main():
                asyncio.get_running_loop().add_reader(pair[0], lambda: None)
                timers.append(asyncio.get_running_loop().call_later(60, print))
            asyncio.run(main())
        """
        )
    )

    result = project.run(f"--leaks={mode}")
    result.assert_outcomes(passed=5, warnings=0)
    result.stdout.no_fnmatch_line("*left something behind*")


def test_rest_of_a_plain_test_ends_what_needs_no_loop(project: Project) -> None:
    """A thread that the test stops after its loop is none left behind; one that it forgets is."""
    project.ini("leaks_budget = 0.05")
    project.write(
        suite("""
        import threading

        def run():
            stop = threading.Event()

            thread = threading.Thread(target=stop.wait, daemon=True)

            async def main():
                thread.start()

            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            return thread, stop

        def stop(thread, stop):
            stop.set()
            thread.join()

        def test_stops():
            stop(*run())

        def test_forgets(pytestconfig):
            KEPT.append(run())
            pytestconfig.add_cleanup(KEPT[-1][1].set)

        class TestCase(unittest.IsolatedAsyncioTestCase):
            def test_case(self):
                stop(*run())
        """)
    )
    result = project.run("--leaks=strict")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*_ test_forgets _*", "1 thread left behind"])


def test_threads_of_tests_without_a_loop_are_found(project: Project) -> None:
    """But not those of pools that are kept, those that end soon, and a library's own."""
    installed = project.path / "site-packages" / "library.py"
    installed.parent.mkdir()
    installed.write_text("""import threading


class Monitor:
    def __init__(self):
        self.stop = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        self.stop.wait()
""")
    project.write(
        """
        import sys
        import threading
        from concurrent.futures import ThreadPoolExecutor

        import pytest

        sys.path.insert(0, "site-packages")
        from library import Monitor

        POOL = ThreadPoolExecutor(1)

        @pytest.fixture
        def stop():
            stop = threading.Event()
            yield stop
            stop.set()

        def test_forgets():
            threading.Thread(target=threading.Event().wait, daemon=True).start()

        def test_ends():
            threading.Thread(target=threading.Event().wait, args=(0.01,)).start()

        def test_fixture_ends(stop):
            threading.Thread(target=stop.wait).start()

        def test_module_keeps():
            POOL.submit(print).result()

        def test_pool():
            with ThreadPoolExecutor(1) as pool:
                pool.submit(print).result()

        def test_library_keeps():
            Monitor()
        """
    )
    # Apart, since nobody ends the thread.
    result = project.run_apart("--leaks=strict", "-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*_ test_forgets _*", "1 thread left behind"])
    made_at = project.line("threading.Event().wait, daemon=True")
    result.stdout.fnmatch_lines([f"    made at {made_at} in test_forgets"])


def test_arguments_of_parametrize_are_no_fixtures(project: Project) -> None:
    """The note on plain fixtures names those with a teardown alone, also if they have a value."""
    project.write(
        """
        import asyncio

        import pytest

        @pytest.fixture
        def server(request):
            yield request.param

        @pytest.mark.asyncio
        @pytest.mark.parametrize("n", [1])
        async def test_argument(n):
            asyncio.create_task(asyncio.sleep(100))

        @pytest.mark.asyncio
        @pytest.mark.parametrize(("n", "server"), [(1, 2)], indirect=["server"])
        async def test_fixture(n, server):
            asyncio.create_task(asyncio.sleep(100))
        """
    )
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=2)
    notes = [line for line in result.outlines if "plain fixtures" in line]
    note = "  note: the loop ended before the teardown of the plain fixtures: server"
    assert set(notes) == {note}
    assert "_ test_fixture" in next(
        line for line in reversed(result.outlines[: result.outlines.index(note)]) if line[:1] == "_"
    )


def test_plain_fixtures_excuse_nothing_that_they_do_not_end(project: Project) -> None:
    """The report comes after their teardown; that on a task, which needs the loop, names them."""
    project.ini("asyncio_mode = auto", "leaks_budget = 0.05")
    project.write(
        suite(
            PLAIN
            + """
        async def test_reader(unrelated):
            KEPT.extend(socket.socketpair())
            asyncio.get_running_loop().add_reader(KEPT[-1], lambda: None)

        async def test_timer(unrelated):
            asyncio.get_running_loop().call_later(60, print)

        async def test_task(stop, unrelated):
            asyncio.get_running_loop().call_later(60, print)
            start()
            KEPT.clear()

        async def test_clean(unrelated):
            pass

        def test_close():
            for each in KEPT:
                each.close()
            KEPT.clear()
        """
        )
    )

    result = project.run("--leaks=strict", "-rA")
    words = outcomes(result)
    assert [name for name, word in words.items() if word == "FAILED"] == [
        "test_reader",
        "test_timer",
        "test_task",
    ]
    result.stdout.fnmatch_lines(
        [
            "1 watched descriptor left behind",
            f"    made at {project.line('add_reader(KEPT')} in test_reader",
            "1 timer left behind",
            "1 task destroyed while pending, 1 timer left behind",
            "*note: the loop ended before the teardown of the plain fixtures: stop, unrelated",
        ]
    )


def test_a_task_that_ends_by_itself_is_no_leak(project: Project) -> None:
    """A task that ends 50 ms later is no leak, on a loop of its own and on a shared one."""
    project.write(
        suite("""
        @pytest.mark.asyncio
        async def test_own_loop():
            KEPT.append(asyncio.create_task(asyncio.sleep(0.05)))

        @pytest.mark.asyncio(loop_scope="session")
        async def test_shared():
            KEPT.append(asyncio.create_task(asyncio.sleep(0.05)))
        """)
    )

    project.run("--leaks=strict").assert_outcomes(passed=2)


def test_a_task_factory_that_was_set_before_is_kept(project: Project) -> None:
    """A loop that is made with a factory of its own is counted all the same."""
    project.write(
        suite("""
        def factory():
            loop = asyncio.new_event_loop()
            loop.set_task_factory(lambda loop, coro, **kw: asyncio.Task(coro, loop=loop, **kw))
            return loop

        async def main():
            start()

        def test_it():
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        """)
    )

    project.run("--leaks=strict").assert_outcomes(failed=1)


def test_a_task_factory_that_the_test_sets_hides_no_task(project: Project) -> None:
    """Neither a factory of its own nor `asyncio.eager_task_factory`, where there is one."""
    project.write(
        suite("""
        from asyncio import Task

        EAGER = getattr(asyncio, "eager_task_factory", None)

        @pytest.mark.parametrize(
            "factory", [EAGER, lambda loop, coro, **settings: Task(coro, loop=loop, **settings)]
        )
        def test_it(factory):
            async def main():
                asyncio.get_running_loop().set_task_factory(factory)
                start()

            asyncio.run(main())
        """)
    )

    project.run("--leaks=strict").assert_outcomes(failed=2)


@pytest.mark.slow
@needs_uvloop
def test_uvloop_is_watched_from_its_import_on(project: Project) -> None:
    """Also in the test that imports it first, which runs in a process of its own."""
    project.write(
        suite("""
        import sys

        async def main():
            start()

        def test_it():
            assert "uvloop" not in sys.modules
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        """)
    )

    project.run_apart("--leaks=strict").assert_outcomes(failed=1)


def test_leaks_of_an_inner_check_are_not_reported_again(project: Project) -> None:
    """A `no_leaks` inside the test has reported and ended them."""
    project.write(
        suite("""
        from muxleak import no_leaks

        @pytest.mark.asyncio
        async def test_it():
            with pytest.raises(AssertionError):
                async with no_leaks():
                    start()
        """)
    )

    project.run("--leaks=strict").assert_outcomes(passed=1)


def test_a_task_that_swallows_its_cancellation_is_given_up(project: Project) -> None:
    """It is reported first, then named with the frame that swallowed the cancellation."""
    project.write(
        suite("""
        async def poll():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        @pytest.mark.no_leaks(budget=0.05)
        @pytest.mark.asyncio
        async def test_polls():
            KEPT.append(asyncio.create_task(poll()))

        @pytest.mark.asyncio
        async def test_after():
            await asyncio.sleep(0)
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "  1 x poll",
            f"*poll swallowed its cancellation in poll ({project.line('sleep(3600)')})*",
        ]
    )


@pytest.mark.parametrize("option", ["--setup-show", "-pdriver"])
def test_a_leak_is_an_error_at_teardown_if_another_plugin_runs_tests(
    project: Project, option: str
) -> None:
    """Where another plugin runs the tests in its own way, no report is held back."""
    project.write(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            runtestprotocol(item, nextitem=nextitem)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        """,
        "driver.py",
    )
    project.pytester.syspathinsert()
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio

        async def test_leaks():
            start()

        async def test_fails():
            start()
            assert 1 == 2

        async def test_clean():
            await asyncio.sleep(0)
        """)
    )

    result = project.run("--leaks=strict", option)
    result.assert_outcomes(passed=2, failed=1, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaks*", "1 task left behind"])


def test_a_leak_stops_a_run_with_exitfirst(project: Project) -> None:
    """A leak is a failure for `-x`; the fixtures in use are torn down."""
    project.write(
        suite("""
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def server():
            yield
            print("server is torn down")

        async def test_leaks(server):
            start()

        async def test_after(server):
            start()
        """)
    )

    result = project.run("--leaks=strict", "-x", "-s")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*server is torn down*"])


def test_threads_that_a_repeated_function_left_are_counted_once(project: Project) -> None:
    """By the `no_leaks` that reports them; nobody can end a thread, so the plugin meets them."""
    project.write("""
        import asyncio, threading
        import pytest
        from muxleak import no_leaks

        @pytest.mark.asyncio
        async def test_threads():
            stop = threading.Event()
            async def operation():
                threading.Thread(target=stop.wait, args=(5,), daemon=True).start()
            try:
                await no_leaks(repeat=4, budget=0.05)(operation)()
            finally:
                stop.set()
        """)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  4 x thread made at test_it.py:*"])
    result.stdout.no_fnmatch_line("*8 x thread*")


@pytest.mark.parametrize("mode", ["off", "warn", "strict"])
def test_finished_tasks_are_freed_as_without_the_plugin(project: Project, mode: str) -> None:
    """The finalizer of a result runs when the last reference of the program's own is gone."""
    project.write("""
        import asyncio

        closed = []

        class File:
            def __del__(self):
                closed.append(1)

        async def child():
            return File()

        async def main():
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del task
            return len(closed)

        def test_del_runs():
            assert asyncio.run(main()) == 1
        """)
    project.run(f"--leaks={mode}").assert_outcomes(passed=1)


def test_a_task_that_a_collection_destroys_fails_its_test(project: Project) -> None:
    """It is named with the line that made it, although nothing of it is left."""
    project.write("""
        import asyncio, gc
        import pytest

        async def lost():
            await asyncio.get_running_loop().create_future()

        @pytest.mark.asyncio
        async def test_loses():
            asyncio.ensure_future(lost())
            await asyncio.sleep(0)
            gc.collect()

        @pytest.mark.asyncio
        async def test_innocent():
            gc.collect()
        """)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "1 task destroyed while pending left behind",
            "  1 x task destroyed while pending: lost",
            f"    made at {project.line('ensure_future')} in test_loses",
        ]
    )
