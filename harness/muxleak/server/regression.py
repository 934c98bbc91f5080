"""Writes a regression test for a failing sequence: asyncio over loopback, without a search."""

# The test makes the connections by hand, so that it can be read, stepped through, and kept when the
# search is forgotten. It needs a test runner, the standard library and `no_leaks`.
#
# Not every sequence can be written so: a test must not wait for minutes, a handler has no name by
# which it could be cancelled, an order of arrivals cannot be forced, and a leak that ends with
# another client has ended at the end of the test. So the written test is run. If it does not fail
# as the sequence did, a test that repeats the recorded decisions takes its place.

from __future__ import annotations

import logging
import re
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from logging.handlers import BufferingHandler
from typing import TYPE_CHECKING, Any

from muxleak.checks.report import LeakError
from muxleak.server.events import CLIENTS, OF_MESSAGES
from muxleak.server.given import needs_address
from muxleak.sim.programs import ProgramError, locate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from muxleak.search.finding import Finding
    from muxleak.search.subject import Outcome
    from muxleak.server.sequence import Performed
    from muxleak.server.subject import ServerSubject

FIRST_LINE = '"""A sequence of connections at'
"""The beginning of each written test."""
_IMPOSSIBLE = frozenset({"idle", "cancel", "client", "cut"})
# Names of the written test; a server of such a name is imported under another.
_TAKEN = frozenset(
    {
        *("AsyncExitStack", "PAUSE", "asyncio", "check_server", "connections", "host", "no_leaks"),
        *("port", "reset", "server", "socket", "stack", "struct", "_", *CLIENTS),
    }
)
_TIMES = 3  # runs of a written test, all of which must fail
_ADDRESSES = {
    "server": "{0}.sockets[0].getsockname()[:2]",
    "tuple": "{0}[:2]",
    "port": '"127.0.0.1", {0}',
    "text": '{0}.rpartition(":")[::2]',
}
_RESET = '''

def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection as a client does that has crashed."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
'''


class NoTestError(ValueError):
    """No test can be written for a finding; the message says why."""


def regression_test(subject: ServerSubject, found: Finding[Outcome], options: str = "") -> str:
    """Return the source of a test that fails as a finding does, and passes once it is fixed.

    Args:
        subject: the server in which it was found.
        found: the finding.
        options: the arguments of `check_server` for a test that repeats decisions, as source, such
            as "messages=[b'hello']".

    Raises:
        NoTestError: the server has no name by which a test could import it.
    """
    module, _, path = subject.name.partition(":")
    try:
        importable = locate(subject.name) == subject.given.thing
    except ProgramError:
        importable = False
    if not importable:
        raise NoTestError(
            f"expected a server that can be imported by name, got {subject.name!r}; define it at "
            "the top of a module"
        )
    performed = subject.performed_again(found.outcome)
    top, dot, rest = path.partition(".")
    imported = f"from {module} import {top}"
    call = path
    if top in _TAKEN:
        imported += f" as checked_{top}"
        call = f"checked_{top}{dot}{rest}"
    possible = {each.event.what for each in performed}.isdisjoint(_IMPOSSIBLE)
    if possible and subject.form in _ADDRESSES:
        text = _by_hand(subject, found, performed, imported, call)
        if all(_fails(text, found.error) for _ in range(_TIMES)):
            return text
    return _by_decisions(subject, found, imported, call, options)


def _head(found: Finding[Outcome]) -> list[str]:
    text = [f"{FIRST_LINE} {found.subject} that failed:", ""]
    text += [f"    {step}" for step in found.steps or ["(the server starts and stops)"]]
    text += ["", f"with: {found.outcome.verdict}", '"""']
    return [line.replace("\\", "\\\\") for line in text]


def _name(path: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path).replace(".", "_").lower()
    return f"test_{words.strip('_')}_leaks_nothing"


def _by_decisions(
    subject: ServerSubject, found: Finding[Outcome], imported: str, call: str, options: str
) -> str:
    path = subject.name.partition(":")[2]
    given = f"{call}, {options}" if options else call
    lines = [
        *_head(found),
        "",
        imported,
        "from muxleak import check_server",
        "",
        "",
        f"def {_name(path)}() -> None:",
        '    """Repeat the recorded decisions; a test by hand does not show the failure."""',
        f'    check_server({given}, replay="{found.replay.line}")',
    ]
    return "\n".join([*lines, ""])


def _by_hand(
    subject: ServerSubject,
    found: Finding[Outcome],
    performed: Sequence[Performed],
    imported: str,
    call: str,
) -> str:
    path = subject.name.partition(":")[2]
    resets = any(each.event.what == "reset" for each in performed)
    modules = ["asyncio", *(["socket", "struct"] if resets else [])]
    stack = ["from contextlib import AsyncExitStack"] if subject.kind == "context" else []
    lines = [
        *_head(found),
        "",
        *(f"import {each}" for each in modules),
        *stack,
        "",
        imported,
        "from muxleak import no_leaks",
        "",
        "PAUSE = 0.1  # seconds in which everything settles, also on a busy machine",
        *(_RESET.splitlines() if resets else []),
        "",
        "",
        "@no_leaks",
        "async def connections() -> None:",
        *(f"    {line}" for line in _body(subject, call, performed)),
        "",
        "",
        f"def {_name(path)}() -> None:",
        '    """Nothing of the connections is left."""',
        "    asyncio.run(connections())",
    ]
    return "\n".join([*lines, ""])


def _body(subject: ServerSubject, path: str, performed: Sequence[Performed]) -> Iterator[str]:
    """Yield the lines that start the server, perform the events, and stop the server."""
    call = (
        f'{path}(host="127.0.0.1", port=0)' if needs_address(subject.given.thing) else f"{path}()"
    )
    start, stop = {
        "handler": (f'await asyncio.start_server({path}, "127.0.0.1", 0)', "server.close()"),
        "protocol": (
            f'await asyncio.get_running_loop().create_server({path}, "127.0.0.1", 0)',
            "server.close()",
        ),
        "starter": (f"await {call}", "server.close()"),
        "context": (f"await stack.enter_async_context({call})", "await stack.aclose()"),
    }[subject.kind]
    if subject.kind == "context":
        yield "stack = AsyncExitStack()"
    yield f"server = {start}"
    yield f"host, port = {_ADDRESSES[subject.form].format('server')}"
    opened: dict[str, None] = {}
    stopped = False
    for event, connects in performed:
        name = CLIENTS[event.slot]
        if event.what == "shutdown":
            stopped = True
            yield stop
        else:
            if connects:
                opened[name] = None
                yield f"_, {name} = await asyncio.open_connection(host, port)"
            yield from _event(subject, name, event)
            if event.what in {"close", "reset"}:
                opened.pop(name, None)
        if event.settles:
            yield "await asyncio.sleep(PAUSE)"
        for _ in range(0 if event.settles else event.iterations):
            yield "await asyncio.sleep(0)"
    for name in opened:
        yield f"{name}.close()"
    if not stopped:
        yield stop
    yield "await asyncio.sleep(PAUSE)"


def _event(subject: ServerSubject, name: str, event: Any) -> Iterator[str]:
    """Yield the lines of one event on an open connection."""
    if event.what in OF_MESSAGES or event.what == "random":
        for number, piece in enumerate(subject.settings.plan.pieces(event)):
            if number:
                yield "await asyncio.sleep(PAUSE)"
            yield f"{name}.write({_source(piece)})"
        return
    line = {
        "close": f"{name}.close()",
        "half-close": f"{name}.write_eof()",
        "reset": f"reset({name})",
        "stall": f"{name}.transport.pause_reading()",
        "resume": f"{name}.transport.resume_reading()",
    }.get(event.what)
    if line is not None:
        yield line


def _source(message: bytes) -> str:
    """Return a message as a literal, with the quotes that formatters prefer."""
    text = repr(message)
    return text if '"' in text else 'b"' + text[2:-1].replace("\\'", "'") + '"'


@contextmanager
def _kept_records() -> Iterator[None]:
    """Keep all log records, as pytest does: their tracebacks keep what the frames refer to."""
    handler = BufferingHandler(sys.maxsize)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _fails(text: str, error: BaseException) -> bool:
    """Return True if a written test fails as the sequence did."""
    space: dict[str, Any] = {"__name__": "written"}
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), _kept_records():
            exec(compile(text, "<regression test>", "exec"), space)  # noqa: S102 - our own text
            next(call for name, call in space.items() if name.startswith("test_"))()
    except LeakError as failed:
        if not isinstance(error, LeakError):
            return type(error).__name__ in str(failed)
        # On a real loop a collection may have destroyed the task, which is another kind.
        names = {group.name for group in error.report.groups}
        return any(group.name in names for group in failed.report.groups)
    except Exception:  # noqa: BLE001 - whatever the test raises, it does not fail as it should
        return False
    return False
