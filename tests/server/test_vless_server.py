"""The server of the issue under generated connections: the bug is found, the reference passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import pytest

from muxleak import LeakError, check_server
from muxleak_vless import Address, Context, Inbound, NetworkType, Stream, User
from muxleak_vless.frames import Frame, FrameStatus, encode_frame
from muxleak_vless.header import Command, Request, encode_request
from muxleak_vless.versions import VERSIONS

USER = UUID(int=1)
TARGET = Address.of("echo.example", 80)
MESSAGES = [
    encode_request(Request(USER, Command.MUX)),
    encode_frame(Frame.new(1, NetworkType.TCP, TARGET, b"hello")),
    encode_frame(Frame(1, FrameStatus.END)),
]


async def echo(stream: Stream, _context: Context) -> None:
    """Serve a stream: send everything back."""
    while data := await stream.read():
        await stream.write(data)


@asynccontextmanager
async def running(version: str) -> AsyncIterator[tuple[str, int]]:
    """Run a version of the server."""
    inbound = Inbound([User(USER)], echo, lifecycle=VERSIONS[version]())
    yield await inbound.listen()
    await inbound.shutdown()


BUGGY = {
    "V1": "MuxSession._watch",  # the watcher of the issue
    **dict.fromkeys(["V0", "P-A", "P-B", "P-C", "V2"], "MuxSession._serve"),
}
"""Each version before the reference, and the task that it leaves."""


@pytest.mark.parametrize("version", BUGGY)
def test_each_version_leaks(version: str) -> None:
    """The bug of the issue, and the leak that its fixes have left in another place."""
    with pytest.raises(LeakError) as caught:
        check_server(partial(running, version), messages=MESSAGES)

    (group,) = caught.value.report.groups
    assert (group.kind, group.name) == ("task", BUGGY[version])


def test_the_reference_passes() -> None:
    """With every question answered right, nothing is left of a connection."""
    assert {*BUGGY, "REF"} == set(VERSIONS)
    check_server(partial(running, "REF"), messages=MESSAGES, sequences=60)
