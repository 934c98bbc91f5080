"""``muxleak serve``: serve any version or variant on a port, with its tasks counted live."""

# The server is there to leak, and to be watched while it does. So the counts must not change what
# is counted: no task is made for the display (see `_watch`), and the tasks that exist before the
# first connection are the baseline. A leak is a task of a connection that has closed; tasks of open
# ones are work.
#
# Safety: it is a proxy without TLS that dials every destination, for everybody who knows the id of
# its user, and that id is in the source. So it listens on loopback unless --public is given, and
# the debug page, which has no password, on loopback only.
#
# The first Ctrl-C stops the server and prints the report. The report is made before the shutdown,
# because the shutdown ends the tasks of most versions; the number after it tells which leaks even
# that does not end. From then on, a further Ctrl-C ends the program at once.

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import click

from muxleak import LeakReport, Ledger, Monitor, settle
from muxleak.monitor import KINDS
from muxleak_scenarios.cli import interrupt, params
from muxleak_scenarios.cli.params import Listen
from muxleak_scenarios.cli.serve_status import JsonScreen, ServerWatch, TextScreen
from muxleak_vless import Inbound, Limits, Outbound, User

if TYPE_CHECKING:
    from uuid import UUID

    from muxleak_scenarios.cli.serve_status import Screen
    from muxleak_scenarios.pairs.replay import SequenceReplay

USER = "00112233-4455-6677-8899-aabbccddeeff"
INTERVAL = 1.0
"""Seconds between two samples of the counts."""
LIMITS = Limits(close_seconds=1.0, dial_seconds=5.0)
"""Limits of the server. Ctrl-C waits a second at most for versions that close no connection; a dial
ends as soon as in sing-box, beside which the versions are measured."""
_YEAR = 365 * 24 * 3600.0
NO_LIMITS = LIMITS._replace(idle_seconds=_YEAR, write_seconds=_YEAR, stall_seconds=_YEAR)
"""Limits that end nothing: only those for dialling, headers and closing are as in `LIMITS`."""
PATIENCE = 0.5
"""Seconds in which a connection that has just closed may end its tasks."""


@click.command(
    "serve",
    epilog=params.examples(
        "serve --version V1                          the leak, on a free port",
        "serve --version fixed --listen 127.0.0.1:8443",
        "serve --version live_id_reused/buggy        one variant of a pair",
        "serve --version V2 --seconds 60 --json      one JSON object per line",
        "serve --debug 127.0.0.1:6060                its tasks over HTTP",
        "serve --verbose                             say why connections end",
    ),
)
@click.option(
    "--version",
    type=params.served,
    metavar="VERSION|PAIR",
    shell_complete=params.complete_subject,
    default="V1",
    show_default=True,
    help="V0, V1 (the bug of issue #2421), P-A, P-B, P-C, V2 or fixed; or PAIR/VARIANT.",
)
@click.option(
    "--listen",
    type=params.listen,
    metavar="HOST:PORT",
    default="127.0.0.1:0",
    show_default=True,
    help="Address of the server; port 0 takes a free one.",
)
@click.option(
    "--user",
    "users",
    type=click.UUID,
    multiple=True,
    default=(USER,),
    metavar="UUID",
    show_default=True,
    help="Id of a user that may connect; may be repeated.",
)
@click.option(
    "--debug",
    type=params.listen,
    metavar="HOST:PORT",
    help="Address on loopback for /debug/tasks and /metrics over HTTP.",
)
@click.option(
    "--no-limits",
    "endless",
    is_flag=True,
    help="Wait for ever for peers and destinations that are idle or do not read.",
)
@click.option("--seconds", type=params.Finite(min=0), help="Seconds after which the server stops.")
@click.option("--public", is_flag=True, help="Allow an address that other machines can reach.")
@click.option("--verbose", "-v", is_flag=True, help="Log to stderr why connections end.")
@params.json_option
@click.pass_context
def serve_command(
    ctx: click.Context,
    version: SequenceReplay,
    listen: Listen,
    users: tuple[UUID, ...],
    debug: Listen | None,
    seconds: float | None,
    *,
    endless: bool,
    public: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Serve a version or pair on a port, with its tasks counted live.

    Point any VLESS client with mux.cool at it, and watch the tasks that closed connections leave.
    Ctrl-C stops it and prints a report. Exits with 1 if closed connections left tasks.
    """
    if debug is not None and not debug.loopback:
        raise click.BadParameter(
            f"expected a loopback address, got {debug.host!r}: everybody who can connect there"
            " reads the tasks of this program, without a password",
            param_hint="'--debug'",
        )
    if not (listen.loopback or public):
        raise click.BadParameter(
            f"expected a loopback address, got {listen.host!r}: this is a test server without TLS,"
            " a proxy for everybody who knows the user's id; add --public if you mean it",
            param_hint="'--listen'",
        )
    # Without --verbose, the log has a handler that drops it: see `run` of this package.
    if verbose:
        logging.basicConfig(format="%(message)s", level=logging.INFO)
    screen = JsonScreen() if as_json else TextScreen()
    server = Server(version, listen, users, screen, debug, NO_LIMITS if endless else LIMITS)
    leaked = asyncio.run(server.run(seconds))
    ctx.exit(1 if leaked else 0)


class Server:
    """One run of a server, from listening to the report of its leaks.

    Args:
        version: the version or variant to serve.
        listen: its address.
        users: ids that may connect.
        screen: shows the address, the counts and the report.
        debug: address of the debug page, or None for none.
        limits: limits of the server.
    """

    def __init__(
        self,
        version: SequenceReplay,
        listen: Listen,
        users: tuple[UUID, ...],
        screen: Screen,
        debug: Listen | None,
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._version = version
        self._listen = listen
        self._users = users
        self._screen = screen
        self._debug = debug

    async def run(self, seconds: float | None) -> LeakReport:
        """Serve until stopped, and return the tasks that closed connections left.

        Args:
            seconds: time after which it stops; None for no limit.
        """
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        ledger = Ledger(KINDS, hold=True)  # as Go holds goroutines
        with ledger.watching(loop), Monitor(ledger, interval=INTERVAL) as monitor:
            debug = await self._listen_debug(monitor)
            users = [User(each) for each in self._users]
            lifecycle = self._version.lifecycle()
            limits = self._limits
            inbound = Inbound(users, Outbound(limits=limits), lifecycle=lifecycle, limits=limits)
            watch = ServerWatch(ledger, inbound, monitor)
            factory = ledger.scoped_factory(watch.protocol)
            try:
                address = Listen(*await inbound.listen(*self._listen, factory=factory))
            except OSError as error:
                raise _cannot_listen("listen", self._listen, error) from None
            if seconds is not None:
                loop.call_later(seconds, stop.set)
            with interrupt.calling(loop, stop.set), self._screen:
                self._screen.listening(self._version.subject, address, self._users, debug)
                await self._watch(watch, stop)
            # From here on, an impatient Ctrl-C ends the program at once.
            await settle(limit=PATIENCE, until=lambda: not watch.leaked())
            status, report = watch.status(), LeakReport.of(watch.leaked())
            await inbound.shutdown()
            await settle(limit=PATIENCE, until=lambda: not watch.tasks)
            self._screen.stopped(status, report, watch.tasks)
        return report

    async def _listen_debug(self, monitor: Monitor) -> Listen | None:
        if self._debug is None:
            return None
        try:
            return Listen(*await monitor.listen(*self._debug))
        except OSError as error:
            raise _cannot_listen("debug", self._debug, error) from None

    async def _watch(self, watch: ServerWatch, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._screen.show(watch.status())
            # Not `wait_for`, which makes a task on some Pythons, and tasks are what is counted.
            try:
                async with asyncio.timeout(INTERVAL):
                    await stop.wait()
            except TimeoutError:
                continue
        self._screen.show(watch.status())


def _cannot_listen(option: str, listen: Listen, error: OSError) -> click.BadParameter:
    # asyncio's text repeats the address; names that cannot be resolved have numbers below 0.
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror or str(error)
    return click.BadParameter(
        f"cannot listen on {listen}: {reason}; choose another, or port 0 for any free one",
        param_hint=f"'--{option}'",
    )
