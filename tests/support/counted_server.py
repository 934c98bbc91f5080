"""A VLESS server of ours in a process, whose tasks are counted from outside, by its monitor.

Run as ``python counted_server.py VERSION PORT PORT``: where clients connect, and where
``/debug/tasks`` is. Its limits are short, so that what a version ends late is not taken for a leak.
"""

import asyncio
import sys
from uuid import UUID

from muxleak import Monitor
from muxleak_vless import Inbound, Limits, Outbound, User
from muxleak_vless.versions import VERSIONS

USER = UUID("00112233-4455-6677-8899-aabbccddeeff")
LIMITS = Limits(write_seconds=0.05, stall_seconds=0.05, close_seconds=0.05, dial_seconds=0.05)


async def main(version: str, port: int, debug: int) -> None:
    """Serve until told to end."""
    inbound = Inbound(
        [User(USER)], Outbound(limits=LIMITS), lifecycle=VERSIONS[version](), limits=LIMITS
    )
    with Monitor(interval=None) as monitor:
        await inbound.listen("127.0.0.1", port)
        await monitor.listen(port=debug)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
