"""``muxleak fuzz module:server``: search a server under generated connections."""

# A name stands for a server, and not for a program of the simulation, by these rules, the first
# that applies:
#
#   1. it is host and port: a server that runs already; or messages were given: a server
#   2. it has settings of the simulation (`@simulated`): a program
#   3. it takes (reader, writer), or host and port, it is a class of protocols, or it is decorated
#      with @asynccontextmanager: a server
#   4. it is an async function without arguments: it is a starter if it is annotated as returning a
#      server, or awaits `serve_forever` itself; or if it has no annotation, but a `return` with a
#      value, and returns a server when it is run once in a simulation
#   5. else: a program, which has its own messages for what is none
#
# The decisions of a finding mean something only together with the messages. So the command that
# repeats it has them too, and so has its file. A process or an endpoint that counts a server which
# runs already is of the moment, and in the command only.

from __future__ import annotations

import ast
import inspect
import os
import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from muxleak import files
from muxleak.introspect.syntax import parse
from muxleak.server.check import search_server, server_subject
from muxleak.server.counts import CountError
from muxleak.server.given import NoServerError, is_address, is_server, recognise
from muxleak.server.messages import escaped, unescaped
from muxleak.server.regression import FIRST_LINE, NoTestError, regression_test
from muxleak.sim import Choices, Settings, SimulationError
from muxleak.sim.guard import guarded
from muxleak.sim.run import run
from muxleak_scenarios.cli import params, programs, render, replay_files
from muxleak_scenarios.cli.fuzz_program import searching

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from muxleak.search import Finding, Outcome
    from muxleak.server.subject import ServerSubject
    from muxleak_scenarios.cli.fuzz_program import Gauge
    from muxleak_scenarios.pairs.campaign import Budget

_SIMULATED = "simulated"
_MAX_BYTES = 1 << 22  # of a file of messages


class Bytes(click.ParamType[bytes]):
    r"""The type of a message: text with the escapes of Python's bytes, such as \n and \xff."""

    name = "TEXT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        """Return the bytes that a text means."""
        try:
            return value if isinstance(value, bytes) else unescaped(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MessageFile(NamedTuple):
    """A file with a message on each line.

    Attributes:
        path: the file.
        messages: the messages, in order.
    """

    path: str
    messages: tuple[bytes, ...] = ()


class _MessageFileType(click.ParamType[MessageFile]):
    name = "FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> MessageFile:
        """Read the file that a path names; lines without any character are left out."""
        found = []
        try:
            text = files.read_text(value, _MAX_BYTES)
        except OSError as error:
            self.fail(f"{value}: {error.strerror or error}", param, ctx)
        except files.FileError as error:
            self.fail(f"{value}: {error}; expected a text with a message on each line", param, ctx)
        for number, line in enumerate(text.split("\n"), 1):
            try:
                message = unescaped(line.removesuffix("\r"))
                found += [message] if message else []
            except ValueError as error:
                self.fail(f"{value}:{number}: {error}", param, ctx)
        if not found:
            self.fail(f"{value}: expected a message on each line, got none", param, ctx)
        return MessageFile(str(value), tuple(found))


class ServerWords(NamedTuple):
    """The words of a command line that say which server is checked, and how.

    Attributes:
        name: "module:callable", or "host:port" of a server that runs already.
        single: the messages of its clients that were given one by one.
        target: "simulated", "tcp" or "uvloop".
        file: further messages; None for none.
        pid: the process of a server that runs already.
        endpoints: the debug endpoints of such a server.
    """

    name: str
    single: tuple[bytes, ...]
    target: str
    file: MessageFile | None = None
    pid: int | None = None
    endpoints: Sequence[str] = ()

    @property
    def messages(self) -> tuple[bytes, ...]:
        """All messages: those given one by one, then those of the file."""
        return self.single + (() if self.file is None else self.file.messages)

    @property
    def options(self) -> list[str]:
        """The options of a command that runs the server in the same way."""
        words = [word for each in self.single for word in ("--message", escaped(each))]
        if self.file is not None:
            words += ["--messages", self.file.path]
        if self.target != _SIMULATED:
            words += ["--target", self.target]
        return words + self.count_options

    @property
    def count_options(self) -> list[str]:
        """Those of the options that count a server which runs already."""
        words = [] if self.pid is None else ["--pid", str(self.pid)]
        return words + [word for each in self.endpoints for word in ("--endpoint", each)]

    def subject(self) -> ServerSubject:
        """Return the server as a subject of the search.

        Raises:
            click.UsageError: it is no server, it cannot be counted, or its target is not installed.
        """
        options: dict[str, Any] = {"messages": list(self.messages)}
        if is_address(self.name):
            thing: Any = self.name
            options["count"] = self._count()
        else:
            thing = programs.read_anything(self.name)
            options["target"] = self.target
        try:
            subject = server_subject(thing, **options)
        except (TypeError, ValueError, ImportError) as error:
            raise click.UsageError(f"{self.name}: {error}") from None
        # The function may know itself under another name, which the import path does not lead to.
        subject.name = self.name
        return subject

    def _count(self) -> list[int | str]:
        # In Python one names the address in a program of one's own; here it is quickly mistyped.
        if not params.listen(self.name).loopback:
            raise click.UsageError(
                f"expected a loopback address, got {self.name!r}: a search repeats what leaks, and "
                "uses up the memory and descriptors of the server; check_server takes any address"
            )
        if self.pid is None and not self.endpoints:
            raise click.UsageError(
                "expected a way to count the server that runs already: --pid PID (descriptors), "
                "--endpoint URL (tasks, of its Monitor), or both; got none"
            )
        return [*([] if self.pid is None else [self.pid]), *self.endpoints]


def message_options(command: Any) -> Any:
    """Add ``--message`` and ``--messages`` to a command: its `messages` and `message_file`."""
    command = click.option(
        "--messages",
        "message_file",
        type=_MessageFileType(),
        help=r"A file with such a message on each line.",
    )(command)
    return click.option(
        "--message",
        "messages",
        multiple=True,
        type=Bytes(),
        help=r"A message that the clients of a server send, such as 'hello\n'; may be repeated.",
    )(command)


def count_options(command: Any) -> Any:
    """Add the options ``--pid`` and ``--endpoint``, which count a server that runs already."""
    command = click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        metavar="URL",
        help="Count the tasks of a server at HOST:PORT by the debug endpoint of its Monitor.",
    )(command)
    text = "Count the descriptors of a server at HOST:PORT, by its process."
    return click.option("--pid", type=params.COUNT, help=text)(command)


def is_given_as_server(name: str, *, messages: bool) -> bool:
    """Return True if a name stands for a server; see the top of this module.

    Args:
        name: "module:callable", or "host:port".
        messages: True if messages were given.

    Raises:
        click.UsageError: there is nothing of that name.
    """
    thing: Any = name if is_address(name) else programs.read_anything(name)
    if messages or thing is name:
        return True
    if hasattr(thing, "simulation_settings"):
        return False
    try:
        kind = recognise(thing).kind
        parameters = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return False
    if kind == "factory":
        return inspect.isasyncgenfunction(getattr(thing, "__wrapped__", None))
    if kind != "starter" or {"host", "port"} <= parameters:
        return True
    return not parameters and _returns_server(thing)


def _returns_server(starter: Any) -> bool:
    own = list(_own_nodes(starter))
    if any(isinstance(node, ast.Await) and _serves(node.value) for node in own):
        return True
    annotated = getattr(starter, "__annotations__", {}).get("return", "")
    if annotated != "":
        return "Server" in str(annotated)
    if not any(isinstance(node, ast.Return) and node.value is not None for node in own):
        return False
    with (
        programs.running(starter.__qualname__),
        guarded(),
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
    ):
        return is_server(run(starter, Choices(), Settings(leaks=False), traced=False).value)


def _own_nodes(function: Any) -> Iterator[ast.AST]:
    """Yield the nodes of a function's source, without those of functions in it."""
    try:
        found: list[ast.AST] = list(parse(textwrap.dedent(inspect.getsource(function))).body[:1])
    except (OSError, TypeError, SyntaxError):
        return
    found = [node for top in found for node in ast.iter_child_nodes(top)]
    while found:
        node = found.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += ast.iter_child_nodes(node)


def _serves(call: ast.expr) -> bool:
    function = call.func if isinstance(call, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr == "serve_forever"


def fuzz_server(
    words: ServerWords, budget: Budget, seed: int, test: Path | None, out: Path, *, as_json: bool
) -> int:
    """Search a server, print the finding, and write its file and its test.

    Args:
        words: the server.
        budget: the limits of the search.
        seed: of all chance.
        test: the file of the test; None for none.
        out: the file of the finding, or the folder for it.
        as_json: print JSON.

    Returns:
        The exit code.

    Raises:
        click.UsageError: there is no such server, or it cannot be simulated.
    """
    subject, name = words.subject(), words.name
    gauge, found = _search(subject, budget, seed)
    report = gauge.report("sequence", seed, found)
    messages = [escaped(each) for each in words.messages]
    more: dict[str, Any] = {"target": words.target, "messages": messages, **gauge.counts(found)}
    if found is None:
        if as_json:
            render.emit_json(report.to_json(**more))
        else:
            report.show_nothing(render.plural(gauge.last.examples, "sequence"))
        return report.code
    again = [render.command("replay", found.replay.line, name, *words.options)]
    path, where = replay_files.keep_replay(out, found.replay)
    if test is not None:
        _write_test(test, subject, found, words.messages)
    if as_json:
        more["test"] = None if test is None else str(test)
        render.emit_json(report.to_json(again[0], path, **more))
        return report.code
    if path is not None:
        again.append(render.command("replay", str(path), name, *words.count_options))
    # On a real loop a search ends by a limit of its own.
    why = "" if report.ended == "shrunk" else "ended early"
    report.show(f"in sequence {found.examples:,}", again, where, why)
    if test is not None:
        render.stdout().print(f"test: {test}")
    return report.code


def check_test(path: Path | None) -> None:
    """Check before a search that a written test takes no other file's place.

    Raises:
        click.BadParameter: the file exists, and no search has written it.
    """
    try:
        written = path is None or path.read_text("utf-8", "replace").startswith(FIRST_LINE)
    except FileNotFoundError:
        return
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}") from None
    if not written:
        raise click.BadParameter(
            f"{path} exists, and is no test that --test has written; give another name"
        )


def _write_test(
    path: Path, subject: ServerSubject, found: Finding[Outcome], messages: Sequence[bytes]
) -> None:
    arguments = f"messages={list(messages)!r}" if messages else ""
    if subject.is_real:
        arguments = ", ".join(filter(None, [arguments, 'target="tcp"']))
    try:
        text = regression_test(subject, found, arguments)
        path.write_text(text, "utf-8")
    except NoTestError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None


def _search(
    subject: ServerSubject, budget: Budget, seed: int
) -> tuple[Gauge, Finding[Outcome] | None]:
    try:
        with searching(subject.name, budget) as gauge:
            found = search_server(
                subject, sequences=budget.examples or sys.maxsize, seed=seed, progress=gauge
            )
    except SimulationError as error:
        text = str(error).replace('target="tcp"', "--target tcp")
        raise click.UsageError(f"{subject.name}: {text}") from None
    except (NoServerError, CountError, RuntimeError) as error:
        notes = "; ".join(getattr(error, "__notes__", ()))
        raise click.UsageError(f"{subject.name}: {error}{notes and f'; {notes}'}") from None
    return gauge, found
