"""What a running server holds, and how that is shown: a live line, plain lines, or JSON."""

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
    """The counts at one moment.

    ``tasks`` are those over the baseline, ``left`` those of them whose connection has closed;
    ``climbing`` are the sites that the monitor raises its alarm for.
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
    """Counts the tasks of a server by connection; the baseline is what there was before."""

    def __init__(self, ledger: Ledger, inbound: Inbound, monitor: Monitor) -> None:
        self._ledger = ledger
        self._monitor = monitor
        self._inbound = inbound
        self._baseline = ledger.count
        self._links: dict[Scope, Link] = {}

    @property
    def tasks(self) -> int:
        """Tasks over the baseline."""
        return self._ledger.count - self._baseline

    def protocol(self) -> Link:
        """Make the protocol of one connection, in the scope it is charged to."""
        link = self._inbound.protocol()
        scope = CURRENT.get()
        if scope is not None:
            self._links[scope] = link
        return link

    def leaked(self) -> list[TaskRecord]:
        """The tasks of connections that have closed."""
        return [record for scope in self._closed() for record in self._ledger.live(scope)]

    def status(self) -> ServerStatus:
        """Count."""
        left = sum(scope.live for scope in self._closed())
        open_ = sum(link.transport is not None for link in self._links.values())
        climbing = tuple(site.site for site in self._monitor.climbing())
        return ServerStatus(
            *(open_, self._inbound.accepted, self._inbound.active),
            *(self.tasks, left, climbing),
        )

    def _closed(self) -> list[Scope]:
        """The closed connections that still have tasks; those that have none are forgotten."""
        # Before its first task, a connection is not closed but about to open.
        closed = [
            scope for scope, link in self._links.items() if link.transport is None and scope.created
        ]
        for scope in closed:
            if not scope.live:
                del self._links[scope]
        return [scope for scope in closed if scope.live]


class Screen(ABC):
    """Where a server tells how it is doing; a context manager while it serves."""

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
        """Say where the server is and how to reach it."""

    @abstractmethod
    def show(self, status: ServerStatus) -> None:
        """Show the counts."""

    @abstractmethod
    def stopped(self, status: ServerStatus, report: LeakReport, after: int) -> None:
        """Say what was left before the shutdown, and how many tasks after it."""


class JsonScreen(Screen):
    """One JSON object per line; the counts only when they have changed."""

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
        if status != self._last:
            self._last = status
            _line({"event": "status", **_counts(status)})

    def stopped(self, status: ServerStatus, report: LeakReport, after: int) -> None:
        """Print the last line."""
        data = {**_counts(status), "left_after_shutdown": after, "report": report.to_json()}
        _line({"event": "stopped", **data})


class TextScreen(Screen):
    """For people: a live line on a terminal; else a line whenever the counts have changed."""

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
        """Print address, users, and what to paste into a client."""
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
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()

    def show(self, status: ServerStatus) -> None:
        """Renew the line."""
        text = Text(str(status), render.BAD if status.left else "")
        if self._live is not None:
            self._live.update(text, refresh=True)
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
"""What a client is to be given instead, where a server listens on all of them."""
CLIENTS = {
    "v2ray": ("V2Ray, Xray", "an outbound: every stream rides in a mux.cool connection"),
    "sing-box": ("sing-box", "an outbound: UDP rides in mux.cool connections, TCP does not"),
}


def clients(address: Listen, user: UUID) -> dict[str, dict[str, Any]]:
    """Return a client's configuration for each of `CLIENTS`; all addresses are no address."""
    host, port, uuid = address.host, address.port, str(user)
    with suppress(ValueError):
        host = HERE if ip_address(host).is_unspecified else host
    account = {"id": uuid, "encryption": "none"}
    v2ray = {
        "protocol": "vless",
        "settings": {"vnext": [{"address": host, "port": port, "users": [account]}]},
        "mux": {"enabled": True, "concurrency": 8},
    }
    sing_box = {"type": "vless", "server": host, "server_port": port, "uuid": uuid}
    return {"v2ray": v2ray, "sing-box": {**sing_box, "packet_encoding": "xudp"}}


def _line(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data))


def _counts(status: ServerStatus) -> dict[str, Any]:
    return {**status._asdict(), "growth": status.growth}
