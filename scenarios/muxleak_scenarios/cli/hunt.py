"""``muxleak hunt``: sequences against a running server over TCP, counted from outside."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muxleak_scenarios.cli import hunt_params, hunt_report, interrupt, params, render, replay_files
from muxleak_scenarios.cli.params import Listen
from muxleak_scenarios.cli.serve import USER
from muxleak_scenarios.hunt import findings as files
from muxleak_scenarios.hunt.batch import REACH_SECONDS, Driver, Spending, UnreachableError
from muxleak_scenarios.hunt.counters import CounterError, Pprof
from muxleak_scenarios.hunt.destinations import HOST, Destinations
from muxleak_scenarios.hunt.hunt import (
    BANDWIDTH,
    CONNECTIONS,
    PATIENCE,
    SECONDS,
    Hunt,
    HuntBudget,
)
from muxleak_scenarios.hunt.remote_server import StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from muxleak_scenarios.hunt.hunt import HuntProgress, HuntResult
    from muxleak_scenarios.hunt.remote_server import RemoteServer
    from muxleak_scenarios.sequence.steps import Sequence

SUFFIX = ".hunt.json"


@click.command(
    "hunt",
    epilog=params.examples(
        "hunt 127.0.0.1:8443 --pprof http://127.0.0.1:6060",
        "hunt 127.0.0.1:8443 --pid 4242 --time 60 --known hunt.json",
        "hunt 127.0.0.1:8443 --command 'sing-box run -c server.json'",
        "hunt 127.0.0.1:8443 --v2ray-stats 127.0.0.1:10085",
        "hunt 127.0.0.1:8443 --pid 42 --replay 'a:open a:new:1:@echo'",
    ),
)
@click.argument("address", type=params.listen, metavar="HOST:PORT")
@click.option("--user", type=click.UUID, default=USER, show_default=True, help="Who connects.")
@click.option(
    "--pprof",
    multiple=True,
    metavar="URL",
    help="Count goroutines: its /debug/pprof/goroutine?debug=1 or 2, or text of that form.",
)
@click.option(
    "--v2ray-stats",
    "v2ray",
    type=params.listen,
    multiple=True,
    metavar="HOST:PORT",
    help="Count goroutines of a V2Ray: where its API is, with the StatsService. Needs the extra "
    "'v2ray'.",
)
@click.option(
    "--pid", type=params.COUNT, help="Count descriptors, threads and memory of a process."
)
@click.option("--command", metavar="COMMAND", help="Start the server, and count that process.")
@click.option(
    "--destinations",
    "host",
    default=HOST,
    show_default=True,
    metavar="HOST",
    help="Our own address, where the server finds the destinations that are hosted here.",
)
@click.option(
    "--time",
    "seconds",
    type=params.POSITIVE,
    default=SECONDS,
    show_default=True,
    help="Seconds at most, for a search; a replay takes what it takes.",
)
@click.option(
    "--connections",
    type=params.COUNT,
    default=CONNECTIONS,
    show_default=True,
    help="Connections at most.",
)
@click.option(
    "--bandwidth",
    type=params.POSITIVE,
    default=BANDWIDTH / 1e6,
    show_default=True,
    help="Megabytes a second at most, sent by the clients.",
)
@click.option(
    "--patience",
    type=params.POSITIVE,
    default=PATIENCE,
    show_default=True,
    help="Seconds that what is left must stay to be called a leak; longer than the server dials.",
)
@click.option(
    "--idle",
    type=params.POSITIVE,
    metavar="SECONDS",
    help="The server's own limit for what is idle: what has gone after twice as long is no leak.",
)
@click.option(
    "--findings",
    "enough",
    type=params.COUNT,
    metavar="N",
    help="Stop when so many leaks are found.",
)
@click.option(
    "--known",
    "known_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Skip what an earlier hunt has found.",
)
@click.option(
    "--replay",
    type=hunt_params.sequence,
    metavar="STEPS",
    help="Measure these steps only: what a hunt has found, or what `muxleak replay` runs.",
)
@click.option(
    "--out",
    type=replay_files.OUT,
    default=".",
    metavar="DIR|FILE",
    help="Where the file goes, if something is found.  [default: here]",
)
@click.option("--i-own-this-server", "owned", is_flag=True, help="Allow one beyond this machine.")
@params.seed_option
@params.json_option
@click.pass_context
def hunt_command(
    ctx: click.Context,
    *,
    address: Listen,
    user: UUID,
    pprof: tuple[str, ...],
    v2ray: tuple[Listen, ...],
    pid: int | None,
    command: str | None,
    host: str,
    seconds: float,
    connections: int,
    bandwidth: float,
    patience: float,
    idle: float | None,
    enough: int | None,
    known_file: Path | None,
    replay: Sequence | None,
    out: Path,
    seed: int,
    owned: bool,
    as_json: bool,
) -> None:
    """Search a running VLESS server for sequences that leak.

    The server speaks mux.cool. Each sequence is repeated while goroutines, descriptors and memory
    are counted from outside, until growth per repetition is certain; then shrunk. Counted is what
    stays when all connections are closed, and what of it stays when the destinations have gone,
    too; what the server ends by itself is told, and is no leak.

    A sequence that was found runs in the Python sessions, too: muxleak replay PAIR/HALF 'STEPS'.
    One of theirs runs here with --replay, where destinations stand in for the handlers that only
    our own server has.

    Ctrl-C ends the hunt with what it has. Exits with 1 if a leak was found, or if the server died.
    """
    target = hunt_params.target(address, pprof, v2ray, pid, command)
    if not owned:
        hunt_params.check_loopback(address, *(Listen(Pprof(url).host, 0) for url in pprof), *v2ray)
    replay_files.check_out(out)
    known = hunt_params.known(known_file)
    limits = HuntBudget(seconds, connections, bandwidth * 1e6, patience, enough, idle or 0)
    replays = None if replay is None else [replay]
    if replay is None and seconds < 2 * limits.wait:
        option = "--patience" if limits.wait == patience else "--idle"
        least = "twice --patience" if option == "--patience" else "four times --idle, and 2 s"
        raise click.UsageError(
            f"--time must be at least {2 * limits.wait:g} s ({least}), got {seconds:g} s; give more"
            f" --time, or less {option}"
        )
    again = hunt_report.Again.of(ctx, address)
    try:
        ended = interrupt.caught(lambda: target.stop(kill=True))
        with ended as stopped, render.progress(seconds) as steps:

            def tell(status: HuntProgress) -> None:
                steps.follow(status.seconds)
                steps.say(hunt_report.progress_in_words(status))

            hunt = partial(
                Hunt,
                target,
                user,
                limits=limits,
                seed=seed,
                known=known,
                progress=tell,
                stopped=stopped,
            )
            try:
                result = asyncio.run(_run(target, user, Destinations(host), hunt, replays, stopped))
            finally:
                target.stop()
    except asyncio.CancelledError:
        click.echo("interrupted", err=True)
        ctx.exit(interrupt.CODE)
    except (StartError, CounterError, UnreachableError) as error:
        raise click.UsageError(str(error)) from None
    path = None
    if result.findings or result.passing:
        content = files.write([*result.findings, *result.passing]).encode()
        path = replay_files.keep(out, f"hunt-{address}", SUFFIX, content)
    if as_json:
        render.emit_json(hunt_report.to_json(result, address, seed, path, again))
    else:
        hunt_report.show(render.stdout(), result, address, path, again)
    ctx.exit(_code(result))


async def _run(
    target: RemoteServer,
    user: UUID,
    destinations: Destinations,
    hunt: Callable[[Destinations], Hunt],
    replays: list[Sequence] | None,
    stopped: Callable[[], bool],
) -> HuntResult:
    """Start the server and hunt it; cancelled if it is stopped before the hunt has begun.

    Raises:
        StartError: if it does not come up, or dials nothing of ours.
        click.BadParameter: if no destinations can be hosted.
    """

    def check() -> None:
        if stopped():
            raise asyncio.CancelledError

    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(destinations)
        except OSError as error:
            raise click.BadParameter(
                f"cannot host destinations on {destinations.host!r}: {error.strerror}; name an "
                "address of this machine",
                param_hint="'--destinations'",
            ) from None
        await target.start(check)
        driver = Driver(target.address, user, destinations, Spending(inf, check))
        if not await driver.reaches() and not await target.died():
            host, port = target.address
            raise StartError(
                f"expected {host}:{port} to dial {destinations.host} for a mux.cool stream of user "
                f"{user}, got nothing within {REACH_SECONDS:g} s; check the address, --user, and "
                "that the server may dial that host, else name another of ours: --destinations"
            )
        return await hunt(destinations).run(replays)


def _code(result: HuntResult) -> int:
    # Also of what is known, which is no finding.
    if result.findings or result.ended == "died":
        return 1
    if result.trouble:
        return 2
    return interrupt.CODE if result.ended == "stopped" else 0
