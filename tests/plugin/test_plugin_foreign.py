"""Objects of other people under the plugin: a test keeps its outcome, whatever they answer."""

import importlib
import importlib.util
from typing import Any

import pytest

import muxleak.plugin.leak_reports

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

HAS_TRUSTME = importlib.util.find_spec("trustme") is not None
if HAS_TRUSTME:
    # Here, as pytester forgets what a project imports: modules in Rust cannot be imported twice.
    importlib.import_module("trustme")
needs_trustme = pytest.mark.skipif(not HAS_TRUSTME, reason="needs: pip install trustme")
MODES = pytest.mark.parametrize("mode", ["warn", "strict"])
LOOPS = pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
TLS = """
    import asyncio, ssl
    import pytest, trustme
    import {factory} as loops

    KEPT = []

    def contexts():
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("localhost").configure_cert(server_side)
        client_side = ssl.create_default_context()
        client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
        return server_side, client_side

    async def serve(reader, writer):
        writer.write(await reader.read(4))
        writer.close()

    async def request(end):
        server_side, client_side = contexts()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side)
        if end == "abort":
            writer.transport.abort()
        else:
            writer.write(b"ping")
            assert await reader.read() == b"ping"
            writer.close()
        if end == "twice":
            writer.close()
        KEPT.append(writer)
        server.close()
        await server.wait_closed()

    @pytest.mark.parametrize("end", ["abort", "once", "twice"])
    def test_tls(end):
        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            runner.run(request(end))

    def test_process():
        async def main():
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            runner.run(main())
    """
HOLDERS = """
    import asyncio
    import pytest

    class Meta(type):
        __module__ = property(lambda cls: 0)

    class Holder(metaclass=Meta):
        pass

    class Raising:
        def __getattribute__(self, name):
            raise ZeroDivisionError(name)

    holder, raising = Holder(), Raising()

    @pytest.mark.asyncio
    async def test_waits():
        holder.event = asyncio.Event()
        object.__getattribute__(raising, "__dict__")["event"] = holder.event
        asyncio.create_task(holder.event.wait())
    """


@MODES
@LOOPS
@pytest.mark.skipif(
    importlib.util.find_spec("trustme") is None, reason="needs: pip install trustme"
)
def test_tls_and_subprocesses_pass(project: Project, mode: str, factory: str) -> None:
    """Aborted and closed twice; on uvloop their transports allow no weak reference."""
    if importlib.util.find_spec(factory) is None:
        pytest.skip("needs: pip install uvloop")
    project.write(TLS.format(factory=factory))
    result = project.run(f"--leaks={mode}")
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*could not check*")


@pytest.mark.parametrize("repeat", ["", "pytestmark = pytest.mark.no_leaks(repeat=4)"])
def test_leak_is_reported_among_hostile_holders(project: Project, repeat: str) -> None:
    """A class whose module is no text, and an object whose attributes raise."""
    project.write(HOLDERS + "\n    " + repeat)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    # Repeated, nobody holds the event of any task but the last, so that a collection destroys them.
    found = "*x task destroyed while pending *" if repeat else "*could still be woken by*"
    result.stdout.fnmatch_lines([found])
    result.stdout.no_fnmatch_line("*Traceback*")


LEAK = """
    import asyncio
    import pytest

    KEPT = []

    @pytest.mark.asyncio
    async def test_leaks():
        KEPT.append(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.sleep(0)

    @pytest.mark.asyncio
    async def test_raises():
        KEPT.append(asyncio.create_task(asyncio.Event().wait()))
        raise KeyError("own")
    """


@MODES
def test_failure_of_the_check_leaves_the_outcome(
    project: Project, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the summary; the test that passed passes, the one that failed fails by its own."""

    async def broken(*_arguments: object) -> Any:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(muxleak.plugin.leak_reports, "left_behind", broken)
    project.write(LEAK)
    result = project.run(f"--leaks={mode}", "-rA")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*KeyError*",
            "*= leaks =*",
            "muxleak could not check test_it.py::test_leaks: ZeroDivisionError: a fault;*",
            "muxleak could not check test_it.py::test_raises: ZeroDivisionError: a fault;*",
        ]
    )


def test_failure_to_end_a_leak_keeps_the_report(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak is reported, with a note that it could not be ended."""

    async def broken(*_arguments: object) -> Any:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(muxleak.plugin.leak_reports, "release", broken)
    project.write(LEAK)
    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*1 x Event.wait*", "*note: muxleak could not check the end of*"])
