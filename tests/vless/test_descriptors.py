"""A server whose process has no descriptor left: connections that close then leave nothing."""

import subprocess
import sys
import textwrap

import pytest

STREAMS = 20
# A process of its own, since the limit holds for a process, and since a codec or module that an
# earlier test has loaded needs no descriptor any more.
PROGRAM = """
import asyncio, os, resource, uuid
from muxleak import settle
from muxleak_vless import Address, Inbound, NetworkType, Outbound, User
from muxleak_vless.frames import Frame, encode_frame
from muxleak_vless.header import Command, Request, encode_request

STREAMS = {streams}
USER = uuid.UUID(int=1)


async def main():
    loop = asyncio.get_running_loop()
    accepted = asyncio.Semaphore(0)
    held = []
    sink = await asyncio.start_server(lambda *_: accepted.release(), "127.0.0.1", 0)
    target = Address.of("127.0.0.1", sink.sockets[0].getsockname()[1])
    inbound = Inbound([User(USER)], Outbound())
    _, writer = await asyncio.open_connection(*await inbound.listen())
    frames = [encode_frame(Frame.new(i, NetworkType.TCP, target)) for i in range(STREAMS)]
    writer.write(encode_request(Request(USER, Command.MUX)) + b"".join(frames))
    for _ in range(STREAMS):
        await accepted.acquire()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, hard))

    def fill():  # whatever descriptor becomes free, others in the process take
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            held and loop.call_soon(fill)

    fill()
    writer.transport.abort()
    await settle(limit=5, until=lambda: not inbound.connections)
    left = [task for task in asyncio.all_tasks() if "muxleak_vless" in repr(task)]
    print(inbound.connections, inbound.active, len(left))
    os._exit(0)


asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc; run it on Linux")
def test_inbound_comes_back_when_descriptors_have_run_out() -> None:
    """Every stream is released, although nothing can be opened or loaded meanwhile."""
    program = textwrap.dedent(PROGRAM.format(streams=STREAMS))

    run = subprocess.run(  # noqa: S603 - a test's own program
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert run.stdout.split() == ["0", "0", "0"], run.stdout + run.stderr
