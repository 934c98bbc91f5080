"""What ``muxleak hunt`` takes, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from muxleak_scenarios.hunt import findings as files
from muxleak_scenarios.hunt.random_sequences import hosted
from muxleak_scenarios.hunt.remote_server import RemoteServer
from muxleak_scenarios.sequence.steps import OPERATOR, Sequence

if TYPE_CHECKING:
    from pathlib import Path

    from muxleak_scenarios.cli.params import Listen
    from muxleak_scenarios.hunt.findings import HuntFinding


def known(path: Path | None) -> list[HuntFinding]:
    """Read the file of an earlier hunt.

    Raises:
        click.BadParameter: if it is none.
    """
    try:
        return [] if path is None else files.read(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="'--known'") from None


def sequence(line: str) -> Sequence:
    """Read steps; a destination stands in for what serves a stream in a server of ours only.

    Raises:
        click.BadParameter: if they are none, or not those of a client.
    """
    try:
        sequence = Sequence.parse(line)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not sequence:
        raise click.BadParameter("expected steps, such as 'a:open a:close'; got none")
    for step in sequence:
        if step.verb in OPERATOR:
            raise click.BadParameter(
                f"step {str(step)!r}: expected steps of a client, got one of the operator, which "
                "can be taken in Python only: muxleak replay"
            )
    return Sequence(hosted(step) for step in sequence)


def target(
    address: Listen,
    pprof: tuple[str, ...],
    v2ray: tuple[Listen, ...],
    pid: int | None,
    command: str | None,
) -> RemoteServer:
    """Return the server under test.

    Raises:
        click.UsageError: if nothing, or too much, says how to count it.
    """
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
    """Refuse what is not on this machine.

    Raises:
        click.UsageError: if one of them is beyond it.
    """
    for address in addresses:
        if not address.loopback:
            raise click.UsageError(
                f"expected a loopback address, got {address.host!r}: what is found here leaks, so a"
                " hunt uses up the memory and descriptors of the server until it fails for "
                "everybody who uses it; add --i-own-this-server if it is yours to break"
            )
