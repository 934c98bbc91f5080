"""Messages and ResourceWarnings in a suite: charged to the test that caused them, filters kept."""

from importlib.util import find_spec
from typing import Any

import pytest

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

SUITE = """
    import asyncio
    import gc
    import warnings

    import pytest

    pytestmark = pytest.mark.asyncio

    class Client:
        def __init__(self, warn=False):
            self._loop, self.warn, self.cycle = asyncio.get_running_loop(), warn, self

        def __del__(self):
            if self.warn:
                warnings.warn(f"unclosed client {self!r}", ResourceWarning, source=self)
            else:
                self._loop.call_exception_handler({"message": "Unclosed client"})

    async def test_future():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, OSError("lost"))
        await asyncio.sleep(0.001)
        del future

    async def test_client():
        Client()
        gc.collect()

    async def test_callback():
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(0)

    async def test_warning():
        Client(warn=True)
        gc.collect()

    async def test_recorded(recwarn):
        Client(warn=True)
        gc.collect()
        assert len(recwarn) == 1

    async def test_after():
        gc.collect()
    """
LEAKING = ("test_future", "test_client", "test_callback", "test_warning")


@pytest.mark.parametrize("shown", ["ignore::ResourceWarning", "default::ResourceWarning"])
def test_messages_fail_the_test_that_caused_them(project: Project, shown: str) -> None:
    """Under strict, whatever filter is set; a test that records warnings deals with them."""
    project.ini("    ignore::pytest.PytestUnraisableExceptionWarning", f"    {shown}")
    project.write(SUITE)
    result = project.run("--leaks=strict", "-rA")
    for name in LEAKING:
        result.stdout.fnmatch_lines_random([f"FAILED test_it.py::{name} *"])
    result.assert_outcomes(passed=2, failed=4, warnings=1 if shown.startswith("default") else 0)


def test_messages_warn(project: Project) -> None:
    """With leaks = warn every test passes."""
    project.ini("    ignore::ResourceWarning")
    project.write(SUITE)
    result = project.run("--leaks=warn")
    result.assert_outcomes(passed=6, warnings=4)
    result.stdout.fnmatch_lines_random(["*Unclosed client*", "*unclosed client*"])


def test_garbage_of_a_shared_loop_is_charged_to_nobody(project: Project) -> None:
    """A test that only collects what an earlier test has left on the same loop passes."""
    text = SUITE.replace("mark.asyncio\n", 'mark.asyncio(loop_scope="module")\n')
    project.write(text.replace("Client()\n        gc.collect()", "Client()"))
    result = project.run("--leaks=strict", "-k", "client or after")
    result.assert_outcomes(passed=2)


@pytest.mark.skipif(find_spec("aiohttp") is None, reason="needs: pip install aiohttp")
def test_session_of_aiohttp_is_named(project: Project) -> None:
    """The library sends its message to the exception handler, and a ResourceWarning: one leak."""
    project.ini("    ignore::ResourceWarning")
    project.write("""
        import aiohttp
        import gc
        import pytest

        @pytest.mark.asyncio
        async def test_session():
            aiohttp.ClientSession()
            gc.collect()
        """)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 message to the exception handler left behind*"])


@pytest.mark.parametrize("mode", ["strict", "warn", "off"])
def test_descriptors_of_a_repeated_test_are_found(project: Project, mode: str) -> None:
    """With the marker's repeat, in every mode."""
    project.write("""
        import os
        import pytest

        KEPT = []

        @pytest.mark.asyncio
        @pytest.mark.no_leaks(repeat=6)
        async def test_opens():
            KEPT.extend(os.pipe())

        def test_closes():
            for each in KEPT:
                os.close(each)
        """)
    result = project.run(f"--leaks={mode}")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*still growing after 6 repetitions: +2 open descriptors*"])


def test_entries_of_a_repeated_test_are_found(project: Project) -> None:
    """If the marker names the kind."""
    project.write("""
        import pytest

        SESSIONS = {}

        class Session:
            pass

        async def connect():
            SESSIONS[len(SESSIONS)] = Session()

        @pytest.mark.asyncio
        @pytest.mark.no_leaks(repeat=6, kinds=["object"])
        async def test_named():
            await connect()
        """)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*6 x entry: Session in test_it.SESSIONS"])


def test_locals_of_a_failed_test_are_not_charged_to_the_test_that_drops_them(
    project: Project,
) -> None:
    """A runner keeps them for a while; their loop was made by the test that failed."""
    project.ini("    ignore::ResourceWarning")
    project.write("""
        import asyncio
        import pytest
        import warnings

        KEPT = []

        class Client:
            def __init__(self, warn):
                self._loop, self.warn = asyncio.get_running_loop(), warn

            def __del__(self):
                if self.warn:
                    warnings.warn(f"unclosed client {self!r}", ResourceWarning, source=self)
                else:
                    self._loop.call_exception_handler({"message": "Unclosed client"})

        @pytest.mark.asyncio
        async def test_fails():
            future = asyncio.get_running_loop().create_future()
            future.set_exception(OSError("lost"))
            KEPT.extend([Client(False), Client(True), future])
            raise LookupError

        @pytest.mark.asyncio
        async def test_drops():
            KEPT.clear()
        """)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1, passed=1)


def test_descriptors_of_one_run_count_if_they_are_named(project: Project) -> None:
    """Those that the call opens and no fixture closes; a shared fixture keeps its own."""
    project.write("""
        import os
        import pytest

        KEPT = []

        @pytest.fixture(scope="module")
        def shared():
            ends = os.pipe()
            yield ends
            for each in (*ends, *KEPT):
                os.close(each)

        @pytest.fixture
        def closing():
            ends = []
            yield ends
            for each in ends:
                os.close(each)

        @pytest.mark.asyncio
        async def test_uses(shared, closing):
            closing.extend(os.pipe())

        @pytest.mark.asyncio
        async def test_opens(shared):
            KEPT.extend(os.pipe())
        """)
    project.run("--leaks=strict").assert_outcomes(passed=2)
    project.ini("leaks_kinds = task descriptor")
    result = project.run("--leaks=strict", "-rA")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FAILED test_it.py::test_opens - *2 open descriptors*"])
    project.run("--leaks=warn").assert_outcomes(passed=2, warnings=1)


def test_clients_that_are_dropped_are_named_by_the_line_that_opened_them(project: Project) -> None:
    """A stream's connection, in a function that returns or by a collection."""
    project.write(
        """
        import asyncio
        import gc

        async def main(cycle):
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            server.close()
            await server.wait_closed()
            if cycle:
                writer.cycle = writer
            del writer
            gc.collect()

        def test_dropped():
            asyncio.run(main(False))

        def test_cycle():
            asyncio.run(main(True))
        """
    )
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=2)
    opened = project.line("open_connection")
    lines = ["1 transport left behind", "  1 x transport: connection", f"    made at {opened} in *"]
    result.stdout.fnmatch_lines([*lines, *lines])
    result.stdout.no_fnmatch_line("*unknown*")


@pytest.mark.parametrize("cycle", [False, True])
def test_a_session_of_aiohttp_is_named_by_the_line_that_made_it(
    project: Project,
    cycle: bool,  # noqa: FBT001 - a table
) -> None:
    """Whether its import comes first or not, and whoever frees it."""
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install aiohttp")
    project.write(
        f"""
        import asyncio

        def test_session():
            async def main():
                import gc
                import aiohttp
                session = aiohttp.ClientSession()
                session.__dict__["cycle"] = session if {cycle} else None
                del session
                gc.collect()

            asyncio.run(main())
        """
    )
    result = project.run_apart("--leaks=strict")
    result.assert_outcomes(failed=1)
    made_at = project.line("aiohttp.ClientSession()")
    result.stdout.fnmatch_lines(["*Unclosed client session", f"    made at {made_at} in *"])
