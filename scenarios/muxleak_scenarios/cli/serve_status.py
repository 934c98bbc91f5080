"""Status of a running server, and its display: a live line, plain lines, or JSON."""

# Tasks are charged to connections by scopes of the ledger: the protocol of each connection is made
# in a scope of its own, and every task that it starts, directly or not, is counted there. So the
# number of leaked tasks is a sum over the scopes of closed connections, and costs nothing for each
# task. A scope whose connection has closed and whose tasks have ended is forgotten, so a server
# that does not leak holds nothing for the connections it has had.
#
# Three displays show the same status. A terminal has one live line. A pipe has one line for each
# change of the counts, so a log of an idle server does not grow. JSON has one object a line, with
# an "event" that names its kind.

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import click
from rich.live import Live
from rich.text import Text

from muxleak.ledger.counters import CURRENT, Scope
from muxleak_scenarios.cli import render

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

    from muxleak import LeakReport, Ledger, Monitor
    from muxleak.ledger.counters import TaskRecord
    from muxleak_scenarios.cli.params import Listen
    from muxleak_vless import Inbound
    from muxleak_vless.link import Link


class ServerStatus(NamedTuple):
    """A sample of the counts of a server.

    Attributes:
        open: connections that are open.
        accepted: connections since the start.
        sessions: mux sessions that are active.
        tasks: tasks above the baseline.
        left: tasks whose connection has closed.
        climbing: creation sites for which the monitor raises its alarm.
    """

    open: int
    accepted: int
    sessions: int
    tasks: int
    left: int
    climbing: tuple[str, ...] = ()

    @property
    def growth(self) -> float:
        """Tasks left per closed connection."""
        closed = self.accepted - self.open
        return round(self.left / closed, 3) if closed else 0.0

    def __str__(self) -> str:
        climbing = f"  climbing: {', '.join(self.climbing)}" if self.climbing else ""
        return (
            f"open {self.open:,}  accepted {self.accepted:,}  mux sessions {self.sessions:,}"
            f"  tasks +{self.tasks:,}  left by closed {self.left:,} ({self.growth:.2f} each)"
            f"{climbing}"
        )


class ServerWatch:
    """Counts the tasks of a server by connection; tasks that exist before it are the baseline.

    Args:
        ledger: counts the tasks of the loop.
        inbound: the server.
        monitor: raises the alarm for creation sites.
    """

    def __init__(self, ledger: Ledger, inbound: Inbound, monitor: Monitor) -> None:
        self._ledger = ledger
        self._monitor = monitor
        self._inbound = inbound
        self._baseline = ledger.count
        self._links: dict[Scope, Link] = {}

    @property
    def tasks(self) -> int:
        """Number of tasks above the baseline."""
        return self._ledger.count - self._baseline

    def protocol(self) -> Link:
        """Make the protocol of a connection, and note the scope that its tasks are charged to."""
        link = self._inbound.protocol()
        scope = CURRENT.get()
        # A protocol made outside a scope is charged to none, and cannot be counted.
        if scope is not None:
            self._links[scope] = link
        return link

    def leaked(self) -> list[TaskRecord]:
        """Return the tasks of closed connections."""
        return [record for scope in self._closed() for record in self._ledger.live(scope)]

    def status(self) -> ServerStatus:
        """Take a sample of the counts."""
        # Of scopes and links only, and not of tasks: the cost is that of the connections.
        left = sum(scope.live for scope in self._closed())
        open_ = sum(link.transport is not None for link in self._links.values())
        climbing = tuple(site.site for site in self._monitor.climbing())
        return ServerStatus(
            *(open_, self._inbound.accepted, self._inbound.active),
            *(self.tasks, left, climbing),
        )

    def _closed(self) -> list[Scope]:
        """Return the closed connections that still have tasks, and forget those that have none."""
        # Before its first task, a connection is not closed but about to open.
        closed = [
            scope for scope, link in self._links.items() if link.transport is None and scope.created
        ]
        for scope in closed:
            if not scope.live:
                del self._links[scope]
        return [scope for scope in closed if scope.live]


class Screen(ABC):
    """A display of a server; a context manager for the time while it serves."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    @abstractmethod
    def listening(
        self, version: str, address: Listen, users: tuple[UUID, ...], debug: Listen | None
    ) -> None:
        """Show the address of the server, and how to reach it.

        Args:
            version: the version or variant that it serves.
            address: where it listens.
            users: ids that may connect.
            debug: address of the debug page, or None.
        """

    @abstractmethod
    def show(self, status: ServerStatus) -> None:
        """Show a sample of the counts."""

    @abstractmethod
    def stopped(self, status: ServerStatus, report: LeakReport, after: int) -> None:
        """Show the report.

        Args:
            status: the counts before the shutdown.
            report: the tasks that closed connections left by then.
            after: tasks above the baseline after the shutdown.
        """


class JsonScreen(Screen):
    """Prints one JSON object a line, the counts only if they have changed."""

    def __init__(self) -> None:
        self._last: ServerStatus | None = None

    def listening(
        self, version: str, address: Listen, users: tuple[UUID, ...], debug: Listen | None
    ) -> None:
        """Print the first line."""
        _line(
            {
                "event": "listening",
                "host": address.host,
                "port": address.port,
                "version": version,
                "users": [str(user) for user in users],
                "debug": f"http://{debug}" if debug is not None else None,
                "clients": clients(address, users[0]),
            },
        )

    def show(self, status: ServerStatus) -> None:
        """Print a line if the counts have changed."""
        # A program that reads the lines wants the changes; once a second is a log that only grows.
        if status != self._last:
            self._last = status
            _line({"event": "status", **_counts(status)})

    def stopped(self, status: ServerStatus, report: LeakReport, after: int) -> None:
        """Print the last line."""
        data = {**_counts(status), "left_after_shutdown": after, "report": report.to_json()}
        _line({"event": "stopped", **data})


class TextScreen(Screen):
    """Prints a live line on a terminal, else a line each time the counts have changed."""

    def __init__(self) -> None:
        self._console = render.stdout()
        self._live: Live | None = None
        self._last: ServerStatus | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def listening(
        self, version: str, address: Listen, users: tuple[UUID, ...], debug: Listen | None
    ) -> None:
        """Print address, users, and configurations for clients."""
        console = self._console
        console.print(Text.assemble((f"{version} listens on ", ""), (str(address), render.HEAD)))
        for user in users:
            console.print(f"user {user}")
        if debug is not None:
            console.print(f"its tasks: http://{debug}/debug/tasks")
        for name, client in clients(address, users[0]).items():
            render.heading(console, *CLIENTS[name])
            for line in render.json_text(client).splitlines():
                render.copyable(console, line, 0)
        console.print()
        console.print(Text("Ctrl-C stops", render.QUIET))
        console.print()
        if console.is_terminal:
            # Without a refresh of its own, which is a thread that prints between other lines.
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()

    def show(self, status: ServerStatus) -> None:
        """Update the live line, or print a line if the counts have changed."""
        text = Text(str(status), render.BAD if status.left else "")
        if self._live is not None:
            self._live.update(text, refresh=True)
        # In a pipe, one line is one status, also where COLUMNS is narrower.
        elif status != self._last:
            self._console.print(text, soft_wrap=True)
        self._last = status

    def stopped(self, status: ServerStatus, report: LeakReport, after: int) -> None:
        """Print the report."""
        console = self._console
        closed = render.plural(status.accepted - status.open, "closed connection")
        console.print()
        if not report:
            console.print(Text.assemble(("clean", render.GOOD), f": {closed}, no task left"))
            return
        left = f"{render.plural(report.total, 'task')} left by {closed}"
        console.print(Text.assemble((left, render.BAD), f"; {after:,} left after the shutdown"))
        console.print()
        render.leaks(console, report)


HERE = "<an address of this machine>"
"""Host in a client's configuration if the server listens on all addresses."""
CLIENTS = {
    "v2ray": ("V2Ray, Xray", "an outbound: every stream rides in a mux.cool connection"),
    "sing-box": ("sing-box", "an outbound: UDP rides in mux.cool connections, TCP does not"),
}


def clients(address: Listen, user: UUID) -> dict[str, dict[str, Any]]:
    """Return a configuration for each of `CLIENTS`.

    Args:
        address: of the server; "all addresses" is none that a client could use, and is replaced.
        user: the id of the client.
    """
    host, port, uuid = address.host, address.port, str(user)
    # A name such as "localhost" is no IP address, and is left as it is.
    with suppress(ValueError):
        host = HERE if ip_address(host).is_unspecified else host
    account = {"id": uuid, "encryption": "none"}
    v2ray = {
        "protocol": "vless",
        "settings": {"vnext": [{"address": host, "port": port, "users": [account]}]},
        "mux": {"enabled": True, "concurrency": 8},
    }
    # sing-box puts TCP streams into connections of their own, and UDP into mux.cool only with XUDP.
    sing_box = {"type": "vless", "server": host, "server_port": port, "uuid": uuid}
    return {"v2ray": v2ray, "sing-box": {**sing_box, "packet_encoding": "xudp"}}


def _line(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data))


def _counts(status: ServerStatus) -> dict[str, Any]:
    return {**status._asdict(), "growth": status.growth}
