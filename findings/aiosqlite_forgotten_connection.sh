#!/usr/bin/env bash
# aiosqlite 0.22.1: a connection that is dropped without close() is to stop its worker thread and to
# warn, by Connection.__del__. After any query it does neither: the worker thread's frame still holds
# the last function it ran, which is bound to the connection, so that the connection is never freed.
# Only a connection that has run no query is freed. The thread is no daemon, so the process would not end.
# Output seen: see `expected` below. Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiosqlite==0.22.1 2>"$folder/pip.log" || { cat "$folder/pip.log"; exit 1; }

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import gc
import os
import threading
import warnings

import aiosqlite


async def forget(query):
    connection = await aiosqlite.connect(":memory:")
    if query:
        await connection.execute_fetchall("select 1")


async def main():
    for query in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await forget(query)
            gc.collect()
            await asyncio.sleep(0.5)  # for a worker that was told to stop
            gc.collect()
        workers = sum("worker" in thread.name for thread in threading.enumerate())
        unclosed = sum(issubclass(each.category, ResourceWarning) for each in caught)
        name = "after a query" if query else "without a query"
        print(f"{name}: {workers} worker threads left, {unclosed} warnings", flush=True)
    os._exit(0)  # the thread would keep the process


asyncio.run(main())
PROGRAM

expected="without a query: 0 worker threads left, 1 warnings
after a query: 1 worker threads left, 0 warnings"
got=$("$folder/venv/bin/python" "$folder/program.py")
echo "$got"
[ "$got" = "$expected" ] || { echo "expected:"; echo "$expected"; exit 1; }
