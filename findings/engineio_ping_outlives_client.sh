#!/usr/bin/env bash
# python-engineio 4.15.1 with aiohttp 3.14.5: after a client has disconnected, and after the server's
# own shutdown(), one task per client stays that will send the next ping: it sleeps on for the ping
# interval, 25 s by default, and holds the client's socket object. A server that loses and gains clients
# keeps one such task for every client of the last 25 s. Cancelling them is left to the end of the loop.
# Output seen: see `expected` below. Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet python-engineio==4.15.1 aiohttp==3.14.5 2>"$folder/pip.log" ||
    { cat "$folder/pip.log"; exit 1; }

cat >"$folder/program.py" <<'PROGRAM'
import asyncio

import engineio
from aiohttp import web


def pings():
    return sum("_send_ping" in repr(task) for task in asyncio.all_tasks())


async def main():
    server = engineio.AsyncServer(async_mode="aiohttp", monitor_clients=False)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for _ in range(5):
        client = engineio.AsyncClient()
        await client.connect(url, transports=["websocket"])
        await client.disconnect()
    await asyncio.sleep(1)
    print(f"5 clients have left: {len(server.sockets)} sockets, {pings()} ping tasks")
    await server.shutdown()
    await runner.cleanup()
    await asyncio.sleep(1)
    print(f"the server has ended: {len(server.sockets)} sockets, {pings()} ping tasks")


asyncio.run(main())
PROGRAM

expected="5 clients have left: 0 sockets, 5 ping tasks
the server has ended: 0 sockets, 5 ping tasks"
got=$("$folder/venv/bin/python" "$folder/program.py")
echo "$got"
[ "$got" = "$expected" ] || { echo "expected:"; echo "$expected"; exit 1; }
