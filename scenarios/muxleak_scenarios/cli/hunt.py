"""``muxleak hunt``: search a running server for sequences that leak, counted from outside."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from muxleak.files import read_text
from muxleak_scenarios.cli import hunt_report, interrupt, params, render, replay_files
from muxleak_scenarios.cli.params import Listen
from muxleak_scenarios.cli.serve import USER
from muxleak_scenarios.hunt import findings
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
from muxleak_scenarios.hunt.random_sequences import hosted
from muxleak_scenarios.hunt.remote_server import RemoteServer, StartError
from muxleak_scenarios.sequence.steps import OPERATOR, Sequence

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from muxleak_scenarios.hunt.findings import HuntOutcome
    from muxleak_scenarios.hunt.hunt import HuntProgress, HuntResult

# The order in which things are refused: first the words themselves, then the file that a finding
# is to be written to, and only then is the server started or connected to. A hunt takes minutes
# and breaks what it finds, so nothing that can be known before may end it after that.
#
# A server that the hunt starts must not outlive it. So `stop` runs in a `finally`, and once more,
# without patience, from the signal handler of a second Ctrl-C, which leaves the process at once.

SUFFIX = ".hunt.json"
UNMEASURED = 75
"""Exit code of a hunt that could not measure: EX_TEMPFAIL of sysexits.h, "try again later"."""


class HuntSettings(NamedTuple):
    """The options of the command, as click has converted them; `owned` allows any address."""

    address: Listen
    user: UUID
    pprof: tuple[str, ...]
    v2ray: tuple[Listen, ...]
    pid: int | None
    command: str | None
    host: str
    seconds: float
    connections: int
    bandwidth: float
    patience: float
    idle: float | None
    enough: int | None
    known_file: Path | None
    replay: list[Sequence] | None
    out: Path
    seed: int
    owned: bool
    as_json: bool

    def budget(self) -> HuntBudget:
        """Return the limits of the hunt.

        Raises:
            click.UsageError: the time does not suffice to confirm one finding.
        """
        bytes_per_second = self.bandwidth * 1e6
        limits = HuntBudget(
            *(self.seconds, self.connections, bytes_per_second),
            *(self.patience, self.enough, self.idle or 0),
        )
        # One wait shows growth and a second one confirms it: in less time, a search finds nothing
        # and would end as if the server were clean. A replay takes as long as it needs.
        if self.replay is None and self.seconds < 2 * limits.wait:
            by_patience = limits.wait == self.patience
            option = "--patience" if by_patience else "--idle"
            least = "twice --patience" if by_patience else "four times --idle, and 2 s"
            raise click.UsageError(
                f"--time must be at least {2 * limits.wait:g} s ({least}), got {self.seconds:g} s; "
                f"give more --time, or less {option}"
            )
        return limits


def read_known(path: Path | None, option: str = "--known") -> list[HuntOutcome]:
    """Return the findings of an earlier hunt, or none without a file.

    Raises:
        click.BadParameter: the file cannot be read, or holds no findings.
    """
    hint = f"'{option}'"
    try:
        return [] if path is None else findings.read(read_text(path, findings.MAX_BYTES))
    except OSError as error:
        raise click.BadParameter(
            f"expected a file that can be read, got {str(path)!r}: {error.strerror or error}",
            param_hint=hint,
        ) from None
    except ValueError as error:
        raise click.BadParameter(f"{path}: {error}", param_hint=hint) from None


def read_sequences(word: str) -> list[Sequence]:
    """Return the sequence that a line means (`read_sequence`), or those of a file of findings.

    Raises:
        click.BadParameter: there are no steps, or a step is none of a client's.
    """
    if not replay_files.is_file(word):
        return [read_sequence(word)]
    found = read_known(Path(word), "--replay")
    if not found:
        raise click.BadParameter(f"{word}: expected findings to measure, got none")
    return [read_sequence(str(each.sequence)) for each in found]


def read_sequence(line: str) -> Sequence:
    """Parse steps that a client can take at a server that is not ours.

    Handlers exist in servers of ours only, so a destination takes the place of each.

    Raises:
        click.BadParameter: there are no steps, or a step is none of a client's.
    """
    try:
        sequence = Sequence.parse(line)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not sequence:
        raise click.BadParameter("expected steps, such as 'a:open a:close'; got none")
    # Steps of the operator (cancel) need a hand inside the server, which a client does not have.
    for step in sequence:
        if step.verb in OPERATOR:
            raise click.BadParameter(
                f"step {str(step)!r}: expected steps of a client, got one of the operator, which "
                "only muxleak replay can take"
            )
    return Sequence(hosted(step) for step in sequence)


def remote_server(
    address: Listen,
    pprof: tuple[str, ...],
    v2ray: tuple[Listen, ...],
    pid: int | None,
    command: str | None,
) -> RemoteServer:
    """Return the server under test, with its counters.

    Args:
        address: of the server.
        pprof: URLs of its goroutine profiles.
        v2ray: addresses of its API, if it is a V2Ray.
        pid: its process; None to count none, or the one that is started.
        command: starts it; None if it runs already.

    Raises:
        click.UsageError: there is no counter, or there are two for one process.
    """
    # The process of a command is counted by itself, and is another one after each restart.
    if pid is not None and command is not None:
        raise click.UsageError("--pid means nothing with --command, whose process is counted")
    if not (pprof or v2ray or pid or command is not None):
        raise click.UsageError(
            "expected a way to count the server: --pprof URL or --v2ray-stats HOST:PORT "
            "(goroutines), --pid PID (descriptors, memory), --command COMMAND (starts it), or "
            "several; got none"
        )
    at, stats = (address.host, address.port), [str(each) for each in v2ray]
    try:
        return RemoteServer(at, pprof=pprof, v2ray=stats, pid=pid, command=command)
    except (ImportError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def check_loopback(*addresses: Listen) -> None:
    """Check that no address is beyond this machine.

    Raises:
        click.UsageError: one is.
    """
    for address in addresses:
        if not address.loopback:
            raise click.UsageError(
                f"expected a loopback address, got {address.host!r}: a hunt repeats what leaks, so"
                " it uses up the memory and descriptors of the server until it fails for everybody "
                "who uses it; add --i-own-this-server if it is yours"
            )


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
@click.option(
    "--user", type=click.UUID, default=USER, show_default=True, help="Id of the user that connects."
)
@click.option(
    "--pprof",
    multiple=True,
    metavar="URL",
    help="Count goroutines by their profile, /debug/pprof/goroutine?debug=1 or 2, or such text.",
)
@click.option(
    "--v2ray-stats",
    "v2ray",
    type=params.listen,
    multiple=True,
    metavar="HOST:PORT",
    help="Count goroutines of a V2Ray by its API, with the StatsService. Needs the extra 'v2ray'.",
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
    help="Address of this machine at which the server reaches the destinations of the hunt.",
)
@click.option(
    "--time",
    "seconds",
    type=params.POSITIVE,
    default=SECONDS,
    show_default=True,
    help="Seconds that a search takes at most; a replay has no limit.",
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
    help="Megabytes that the clients send in a second, at most.",
)
@click.option(
    "--patience",
    type=params.POSITIVE,
    default=PATIENCE,
    show_default=True,
    help="Seconds after which growth counts as a leak; more than the server takes to dial.",
)
@click.option(
    "--idle",
    type=params.POSITIVE,
    metavar="SECONDS",
    help="The server's own limit for idle streams; growth that ends in twice as long is no leak.",
)
@click.option(
    "--findings",
    "enough",
    type=params.COUNT,
    metavar="N",
    help="Stop after so many leaks.",
)
@click.option(
    "--known",
    "known_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of an earlier hunt, whose findings are skipped.",
)
@click.option(
    "--replay",
    type=read_sequences,
    metavar="STEPS|FILE",
    help="Measure these steps only, or those of all findings of a file.",
)
@click.option(
    "--out",
    type=replay_files.OUT,
    default=".",
    metavar="DIR|FILE",
    help="Where the file of the findings is written.  [default: here]",
)
@click.option(
    "--i-own-this-server", "owned", is_flag=True, help="Allow addresses beyond this machine."
)
@params.seed_option
@params.json_option
@click.pass_context
def hunt_command(ctx: click.Context, /, **options: Any) -> None:
    """Search a running VLESS server for sequences that leak.

    The server speaks mux.cool. Each sequence is repeated while goroutines, descriptors and memory
    are counted from outside, until the growth of each repetition is certain; then it is shrunk.
    Counted is the growth that stays when all connections are closed, and the part of it that stays
    when the destinations are closed, too. Growth that the server ends by itself is reported, and is
    no leak.

    A sequence that was found runs in the Python sessions, too: muxleak replay PAIR/VARIANT 'STEPS'.
    A sequence of theirs runs here with --replay, where destinations take the place of the handlers
    that only our own server has.

    Each finding is written to its file at once. Ctrl-C ends the hunt and shows its findings. Exits
    with 1 if a leak was found, or if the server died; with 75 if the counts of the server never
    stood still, so that nothing could be measured.
    """
    given = HuntSettings(**options)
    target = remote_server(given.address, given.pprof, given.v2ray, given.pid, given.command)
    if not given.owned:
        # Also the addresses of the counters: the hunt asks them hundreds of times.
        counted_at = (Listen(Pprof(url).host, 0) for url in given.pprof)
        check_loopback(given.address, *counted_at, *given.v2ray)
    replay_files.check_out(given.out)
    known, limits = read_known(given.known_file), given.budget()
    again = hunt_report.Again.of(ctx, given.address)
    kept = replay_files.Growing(given.out, f"hunt-{given.address}", SUFFIX)

    def keep(result: HuntResult) -> None:
        # Growth that passes is written, too: a later hunt with --known then skips it, instead of
        # waiting for its end once more.
        found = [*(each.outcome for each in result.findings), *result.passing]
        kept.write(findings.write(found, str(given.address)).encode())

    try:
        result = _hunted(given, target, limits, known, keep)
    except asyncio.CancelledError:
        click.echo("interrupted", err=True)
        ctx.exit(interrupt.CODE)
    except (StartError, CounterError, UnreachableError) as error:
        raise click.UsageError(str(error)) from None
    if result.findings or result.passing:
        keep(result)
    if given.as_json:
        render.emit_json(hunt_report.to_json(result, given.address, given.seed, kept.path, again))
    else:
        hunt_report.show(render.stdout(), result, given.address, kept.path, again)
    ctx.exit(_code(result))


def _hunted(
    given: HuntSettings,
    target: RemoteServer,
    limits: HuntBudget,
    known: list[HuntOutcome],
    found: Callable[[HuntResult], object],
) -> HuntResult:
    """Hunt the server with progress, until it is done or stopped; end a server of ours."""
    ended = interrupt.caught(lambda: target.stop(kill=True))
    with ended as stopped, render.progress(given.seconds) as steps:

        def tell(status: HuntProgress) -> None:
            steps.follow(status.seconds)
            steps.say(hunt_report.progress_in_words(status))

        hunt = partial(
            Hunt,
            target,
            given.user,
            limits=limits,
            seed=given.seed,
            known=known,
            progress=tell,
            found=found,
            stopped=stopped,
        )
        replays = given.replay
        destinations = Destinations(given.host)
        # Also where asyncio.run raises: a server of ours that is left would keep the port.
        try:
            return asyncio.run(_run(target, given.user, destinations, hunt, replays, stopped))
        finally:
            target.stop()


async def _run(
    target: RemoteServer,
    user: UUID,
    destinations: Destinations,
    hunt: Callable[[Destinations], Hunt],
    replays: list[Sequence] | None,
    stopped: Callable[[], bool],
) -> HuntResult:
    """Start the server and hunt it.

    Args:
        target: the server.
        user: the id that connects.
        destinations: those that the server is asked to dial.
        hunt: makes the hunt for these destinations.
        replays: the sequences to measure; None to search.
        stopped: returns True if the user has asked the program to end.

    Raises:
        StartError: the server does not come up, or does not dial the destinations.
        CancelledError: the program was asked to end before the hunt began.
        click.BadParameter: the destinations cannot listen there.
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
        # Called while the server does not come up, so that the first Ctrl-C ends that wait.
        await target.start(check)
        # With a wrong user or address, every sequence ends at once, as at a server in which nothing
        # is found. So a stream must reach a destination before the hunt begins.
        driver = Driver(target.address, user, destinations, Spending(inf, check))
        if not await driver.reaches() and not await target.died():
            host, port = target.address
            raise StartError(
                f"expected {host}:{port} to dial {destinations.host} for a mux.cool stream of user "
                f"{user}, got nothing within {REACH_SECONDS:g} s; check the address, --user, and "
                "that the server may dial that host, or name another with --destinations"
            )
        return await hunt(destinations).run(replays)


def _code(result: HuntResult) -> int:
    # A server that died of a known sequence is broken all the same, though that is no finding.
    if result.findings or result.ended == "died":
        return 1
    if result.trouble:
        return 2
    if result.unmeasured:
        return UNMEASURED
    return interrupt.CODE if result.ended == "stopped" else 0
