"""``muxleak hunt`` against V2Ray and sing-box: it finds the leaks that were measured otherwise."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from muxleak_scenarios.cli import cli
from muxleak_scenarios.cli.serve import USER
from muxleak_scenarios.hunt.destinations import Destinations
from muxleak_scenarios.hunt.hunt import Hunt, HuntBudget
from muxleak_scenarios.hunt.remote_server import RemoteServer
from muxleak_scenarios.real.programs import LOOPBACK, free_port, sing_box_server, v2ray_server
from proxies import find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muxleak_scenarios.hunt.findings import HuntOutcome
    from muxleak_scenarios.hunt.hunt import HuntProgress
    from muxleak_scenarios.real.programs import Config

pytestmark = [pytest.mark.slow, pytest.mark.interop, pytest.mark.timeout(60)]

FILL = " ".join(["a:data:1+65535~0"] * 60)
"""Data frames that fill the buffers of V2Ray for a destination that does not read."""
UNREAD = f"a:open a:new:1:@deaf {FILL} a:close"
LEAKS = {
    (2, 1, 1, 1): "a:open a:new:1:@echo a:new:1:@echo a:close",
    (2, 1, 2, 1): "a:open a:udp:1:@echo a:udp:1:@echo a:close",
    (1, 1, 0, 0): "a:open a:new:1:@silent a:end:1 a:close",
    (4, 2, 0, 0): "a:open a:new:1:@deaf a:data:1+65535 a:data:1+65535 a:close",
}
"""Sequences by their growth in sing-box 1.14.4: goroutines, descriptors, and both afterwards."""


class Server:
    """A way to start and count a program on free ports."""

    def __init__(self, name: str, folder: Path, config: Callable[[int, int], Config]) -> None:
        program, self.port, self.counts = find(name), free_port(), free_port()
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config(self.port, self.counts)))
        self.command = shlex.join([*program.command, str(path)])

    def hunt(self, folder: Path, *words: str) -> Result:
        """Run the command in this process."""
        out = ["--command", self.command, "--out", str(folder), "--json"]
        return CliRunner().invoke(cli, ["hunt", f"{LOOPBACK}:{self.port}", *out, *words])


def sing_box(folder: Path) -> Server:
    """Return a sing-box with its debug endpoint."""

    def config(port: int, debug: int) -> Config:
        return {**sing_box_server(port, UUID(USER), debug), "log": None}

    return Server("sing-box", folder, config)


def v2ray(folder: Path, idle: int) -> Server:
    """Return a V2Ray with its StatsService, which ends idle streams after one or two intervals."""

    def config(port: int, counts: int) -> Config:
        door = {"tag": "api", "protocol": "dokodemo-door", "listen": LOOPBACK, "port": counts}
        rule = {"type": "field", "inboundTag": ["api"], "outboundTag": "api"}
        server = v2ray_server(port, UUID(USER))
        server["inbounds"].append({**door, "settings": {"address": LOOPBACK}})
        return server | {
            "log": {"loglevel": "none"},
            "stats": {},
            "api": {"tag": "api", "services": ["StatsService"]},
            "policy": {"levels": {"0": {"connIdle": idle}}},
            "routing": {"rules": [rule]},
        }

    return Server("v2ray", folder, config)


def counted(finding: HuntOutcome) -> tuple[int, ...]:
    """Return goroutines and descriptors for one repetition, with destinations alive and closed."""
    (held, kept), (held_fds, kept_fds) = finding.growth.tasks, finding.growth.descriptors
    return (held, held_fds, kept, kept_fds)


def figures_of(finding: dict[str, Any]) -> tuple[int, ...]:
    """Return the same figures of a finding in JSON."""
    tasks, descriptors = finding["tasks"], finding["descriptors"]
    return (tasks["held"], descriptors["held"], tasks["kept"], descriptors["kept"])


def blocked(finding: HuntOutcome, *names: str) -> bool:
    """Return True if a stack has all these functions, from the inside outwards."""
    return any(
        [name for name in names if any(name in function for function in stack)] == list(names)
        for stack in finding.growth.held
    )


def test_hunt_tells_what_v2ray_ends_by_itself(tmp_path: Path) -> None:
    """A destination that never reads is a leak for a short wait, and none for a longer one."""
    pytest.importorskip("grpc", reason="needs: pip install 'muxleak[v2ray]'")
    words = ["--patience", "0.5", "--replay", UNREAD, "--v2ray-stats"]

    server = v2ray(tmp_path, idle=60)
    short = server.hunt(tmp_path, *words, f"{LOOPBACK}:{server.counts}")
    (leak,) = json.loads(short.stdout)["findings"]
    assert (short.exit_code, figures_of(leak)) == (1, (8, 2, 0, 0))

    server = v2ray(tmp_path, idle=3)
    long = server.hunt(tmp_path, *words, f"{LOOPBACK}:{server.counts}", "--idle", "3")
    data = json.loads(long.stdout)
    (passing,) = data["passing"]
    assert (long.exit_code, data["findings"]) == (0, [])
    assert figures_of(passing) == (8, 2, 0, 0)
    assert 0.5 < passing["gone_after_seconds"] < 7


@pytest.mark.parametrize(("figures", "line"), LEAKS.items())
def test_hunt_measures_sing_box(tmp_path: Path, figures: tuple[int, ...], line: str) -> None:
    """The growth is the one that was measured by other means, to the unit."""
    server = sing_box(tmp_path)
    pprof = f"http://{LOOPBACK}:{server.counts}"
    result = server.hunt(tmp_path, "--pprof", pprof, "--patience", "2", "--replay", line)
    (found,) = json.loads(result.stdout)["findings"]

    assert (figures_of(found), found["exact"]) == (figures, True)


def test_hunt_does_not_take_dialling_for_a_leak(tmp_path: Path) -> None:
    """sing-box dials a black hole for five seconds, even after the client has gone."""
    server = sing_box(tmp_path)
    pprof = f"http://{LOOPBACK}:{server.counts}"
    line = "a:open a:new:1:@hang+5 a:close"
    result = server.hunt(tmp_path, "--pprof", pprof, "--replay", line)
    data = json.loads(result.stdout)
    (passing,) = data["passing"]

    assert (result.exit_code, data["findings"]) == (0, [])
    assert passing["tasks"]["held"] > 0
    assert 3 < passing["gone_after_seconds"] < 6


@pytest.mark.timeout(700)
def test_hunt_finds_the_leaks_of_sing_box(tmp_path: Path) -> None:
    """Without known findings it finds the three leaks over TCP, with their stacks, and ends."""
    wanted = {figures: line for figures, line in LEAKS.items() if ":udp:" not in line}
    server = sing_box(tmp_path)
    target = RemoteServer(
        (LOOPBACK, server.port),
        pprof=[f"http://{LOOPBACK}:{server.counts}"],
        command=server.command,
    )

    async def main() -> dict[tuple[int, ...], HuntOutcome]:
        async with Destinations() as destinations:
            await target.start()
            found: dict[tuple[int, ...], HuntOutcome] = {}

            def progress(_status: HuntProgress) -> None:
                found.update((counted(each.outcome), each.outcome) for each in one.result.findings)

            one = Hunt(
                target,
                UUID(USER),
                destinations,
                limits=HuntBudget(seconds=600),
                progress=progress,
                stopped=lambda: wanted.keys() <= found.keys(),
            )
            await one.run()
            return found

    try:
        found = asyncio.run(main())
    finally:
        target.stop()
    assert wanted.keys() <= found.keys()
    twice, held, unread = (found[each] for each in wanted)
    assert blocked(twice, "io.(*pipe).read", "serverMuxConn).Read", "connectionCopy")
    assert blocked(held, "connectionCopy")
    assert blocked(unread, "io.(*pipe).write", "recvTo")
    for each in (twice, held):
        assert len(each.sequence) == 4
