"""A VLESS server of ours in a process, counted from outside: its tasks in the text form of Go's.

Run as ``python counted_server.py VERSION PORT PORT``: where clients connect, and where
``/debug/tasks`` is. Its limits are short, so that what a version ends late is not taken for a leak.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from vless import Inbound, Limits, Outbound, User
from vless.versions import VERSIONS

USER = UUID("00112233-4455-6677-8899-aabbccddeeff")
LIMITS = Limits(write_seconds=0.05, stall_seconds=0.05, close_seconds=0.05, dial_seconds=0.05)


def frames(awaited: Any) -> Iterator[str]:
    """The functions of a task, the outermost first."""
    while hasattr(awaited, "cr_frame"):
        code = awaited.cr_code
        yield f"{code.co_qualname} {code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"
        awaited = awaited.cr_await


def profile(own: asyncio.Task[object] | None) -> str:
    """All tasks but the one that asks, and the one that serves."""
    tasks = [each for each in asyncio.all_tasks() if each is not own and each.get_name() != "main"]
    stacks = Counter(
        "".join(f"#\t{line}\n" for line in [*frames(t.get_coro())][::-1]) for t in tasks
    )
    blocks = [f"{count} @ 0x0\n{stack}" for stack, count in stacks.items()]
    return f"goroutine profile: total {len(tasks)}\n" + "\n".join(blocks)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, whatever it asks."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + profile(asyncio.current_task()).encode())
    writer.close()


async def main(version: str, port: int, debug: int) -> None:
    """Serve until told to end."""
    inbound = Inbound(
        [User(USER)], Outbound(limits=LIMITS), lifecycle=VERSIONS[version](), limits=LIMITS
    )
    await inbound.listen("127.0.0.1", port)
    async with await asyncio.start_server(answer, "127.0.0.1", debug) as server:
        await server.serve_forever()


async def named(version: str, port: int, debug: int) -> None:
    """Name the task that serves, so that it can be left out."""
    await asyncio.create_task(main(version, port, debug), name="main")


if __name__ == "__main__":
    sys.exit(asyncio.run(named(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
