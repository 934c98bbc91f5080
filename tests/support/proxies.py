"""V2Ray and sing-box on loopback: found, configured, started, and surely ended."""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from muxleak_scenarios.cli.params import Listen
from muxleak_scenarios.cli.serve import USER
from muxleak_scenarios.cli.serve_status import clients
from muxleak_scenarios.real import programs
from muxleak_scenarios.real.programs import ATTEMPTS, LOOPBACK, free_port
from processes import Process, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from muxleak_scenarios.real.programs import Config, Program


class Proxy(Process):
    """A program that runs with a configuration; ``address`` is where it listens."""

    def __init__(self, title: str, config: Config, folder: Path, program: Program) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        super().__init__(title, [*program.command, str(path)], folder)


class Proxies:
    """Starts programs; as a context manager, ends them all."""

    def __init__(self, folder: Path) -> None:
        self.proxies: list[Proxy] = []
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for proxy in self.proxies:
            proxy.kill()

    def start(self, name: str, role: str, config: Callable[[int], Config]) -> Proxy:
        """Start a program that listens on a free port and wait until it accepts."""
        program = find(name)
        for _ in range(ATTEMPTS):
            port = free_port()
            folder = self._folder / f"{len(self.proxies)}-{name}-{role}"
            folder.mkdir()
            proxy = Proxy(f"{name} {program.version} as {role}", config(port), folder, program)
            self.proxies.append(proxy)
            if proxy.ready(port):
                return proxy
        raise AssertionError(f"{proxy.title}: ended {ATTEMPTS} times at its start\n{proxy.log}")

    def client(self, name: str, server: tuple[str, int], user: str = USER, **more: Any) -> Proxy:
        """Start a client that listens for SOCKS; ``more`` goes into its outbound."""
        outbound = {**clients(Listen(*server), UUID(user))[name], **more}
        return self.start(name, "client", functools.partial(CLIENTS[name], outbound))

    def server(self, name: str) -> Proxy:
        """Start a server of VLESS that dials what it is asked for."""
        return self.start(name, "server", lambda port: SERVERS[name](port, UUID(USER)))


def find(name: str) -> Program:
    """Find a program; skip the test without it, or fail it where it is required."""
    try:
        return programs.find(name)
    except programs.MissingError as error:
        unavailable("interop", str(error))


def _v2ray_client(outbound: Config, port: int) -> Config:
    socks = {"protocol": "socks", "settings": {"udp": True, "ip": LOOPBACK}}
    return programs.v2ray_config({**socks, "listen": LOOPBACK, "port": port}, outbound)


def _sing_box_client(outbound: Config, port: int) -> Config:
    return programs.sing_box_config({"type": "socks"}, outbound, port)


CLIENTS: dict[str, Callable[[Config, int], Config]] = {
    "v2ray": _v2ray_client,
    "sing-box": _sing_box_client,
}
SERVERS: dict[str, Callable[[int, UUID], Config]] = {
    "v2ray": programs.v2ray_server,
    "sing-box": programs.sing_box_server,
}


def main() -> int:
    """Say which programs there are; 1 if one is missing."""
    missing = 0
    for name in programs.INSTALL:
        try:
            print(name, programs.find(name).version)  # noqa: T201 - for .ci/run
        except programs.MissingError as error:
            print(error)  # noqa: T201 - the same
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
