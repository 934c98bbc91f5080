#!/usr/bin/env bash
# aioftp 0.28.3: when a client resets its connection while the server writes or awaits its next
# command, the server ends the connection and frees everything, but nobody retrieves the exception of
# one of its tasks. asyncio reports "Task exception was never retrieved" with a traceback, once for each
# such client, so that a log fills with errors of an event that is none.
# Output seen: see `expected` below. Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aioftp==0.28.3 2>"$folder/pip.log" || { cat "$folder/pip.log"; exit 1; }

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import gc
import logging
import socket
import struct

import aioftp

CLIENTS = 20


async def main():
    logging.disable(logging.CRITICAL)
    reports = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
    server = aioftp.Server([aioftp.User("ann", "secret")], path_io_factory=aioftp.MemoryPathIO)
    await server.start("127.0.0.1", 0)
    tasks = len(asyncio.all_tasks())
    for _ in range(CLIENTS):
        client = socket.create_connection((server.server_host, server.server_port))
        await asyncio.sleep(0.1)
        client.sendall(b"USER ann\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await asyncio.sleep(0.1)
    gc.collect()
    await asyncio.sleep(0.1)
    print(f"{CLIENTS} clients have reset: {len(asyncio.all_tasks()) - tasks} tasks left")
    print(f"{len(reports)} reports: {', '.join(sorted(set(reports)))}")
    await server.close()


asyncio.run(main())
PROGRAM

expected="20 clients have reset: 0 tasks left
20 reports: Task exception was never retrieved"
got=$("$folder/venv/bin/python" "$folder/program.py")
echo "$got"
[ "$got" = "$expected" ] || { echo "expected:"; echo "$expected"; exit 1; }
