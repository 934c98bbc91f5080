"""Two parts of the server alone: waiters of a context cancelled, and frames decoded."""

from __future__ import annotations

import asyncio
import time
from functools import cache, partial
from random import Random
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from muxleak_scenarios.bench.measure import Beside, Comparison, in_turns
from muxleak_vless import Context
from muxleak_vless.frames import DATA, FrameDecoder, data_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from muxleak_scenarios.bench.measure import BenchPlan
    from muxleak_vless.frames import Frame

WAITERS = 10_000
PAYLOAD = 128
CHUNK = 64 * 1024
_CHUNKS = 50
_LENGTH = Struct(">H")
_META = Struct(">HBB")


class ContextWaiter(NamedTuple):
    """Something that tasks can wait on for ever: how to wait, and how many do."""

    wait: Callable[[], Coroutine[None, None, object]]
    waiters: Callable[[], int]


def on_context() -> ContextWaiter:
    """Wait on our context."""
    context = Context.background().child("bench")
    return ContextWaiter(context.wait, lambda: len(context._registered))  # noqa: SLF001 - only its owner counts


def on_event() -> ContextWaiter:
    """Wait on asyncio's event, the usual thing to share."""
    event = asyncio.Event()
    return ContextWaiter(event.wait, lambda: len(event._waiters))  # noqa: SLF001 - the same


def cancel(make: Callable[[], ContextWaiter], waiters: int) -> float:
    """Cancel so many waiters in an order of chance; seconds of CPU for one."""
    return asyncio.run(_cancel(make, waiters))


async def _cancel(make: Callable[[], ContextWaiter], waiters: int) -> float:
    waiting = make()
    tasks = [asyncio.ensure_future(waiting.wait()) for _ in range(waiters)]
    await asyncio.sleep(0)
    if waiting.waiters() != waiters:
        raise AssertionError(f"expected {waiters} waiters, got {waiting.waiters()}")
    Random(0).shuffle(tasks)  # noqa: S311 - an order, no secret
    began = time.process_time()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    spent = time.process_time() - began
    if waiting.waiters() or not all(task.cancelled() for task in tasks):
        raise AssertionError(f"expected no waiter, got {waiting.waiters()}")
    return spent / waiters


@cache
def chunk() -> bytes:
    """As many frames of `PAYLOAD` bytes as fit into `CHUNK` bytes, on three streams in turn."""
    frames = (data_frames(1 + at % 3, bytes([at % 256]) * PAYLOAD)[0] for at in range(CHUNK))
    data = b""
    for frame in frames:
        if len(data) + len(frame) > CHUNK:
            break
        data += frame
    return data


def decode() -> list[Frame]:
    """Decode a chunk with our decoder."""
    decoder = FrameDecoder()
    decoder.receive_data(chunk())
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


async def read() -> list[tuple[int, int, int, bytes]]:
    """Read a chunk with asyncio's streams: id, status, option and data of every frame.

    Less than a frame, and not checked: it cannot be read for less in this way.
    """
    reader = asyncio.StreamReader(limit=2 * CHUNK)
    reader.feed_data(chunk())
    reader.feed_eof()
    frames = []
    exactly, length, meta = reader.readexactly, _LENGTH.unpack, _META.unpack_from
    while not reader.at_eof():
        (size,) = length(await exactly(2))
        stream_id, status, option = meta(await exactly(size))
        data = b""
        if option & DATA:
            (size,) = length(await exactly(2))
            data = await exactly(size)
        frames.append((stream_id, status, option, data))
    return frames


def measure_cancel(plan: BenchPlan) -> list[Comparison]:
    """A waiter cancelled, in any order, beside the same with `asyncio.Event`."""
    waiters = plan.size(WAITERS)
    works = {each.__name__: partial(cancel, each, waiters) for each in (on_context, on_event)}
    ours, theirs = in_turns(works, plan).values()
    note = "it grows with their number: each is looked for among all"
    beside = Beside("asyncio.Event", theirs, goal=5 if waiters == WAITERS else None, note=note)
    title = f"a context's waiter cancelled, of {waiters:,}"
    return [Comparison(title, ours, (beside,))]


def measure_frame(plan: BenchPlan) -> list[Comparison]:
    """A frame decoded, beside one read with `StreamReader.readexactly`."""
    times = plan.size(_CHUNKS)
    works = {"ours": partial(_decoding, times), "streams": partial(_reading, times)}
    ours, theirs = in_turns(works, plan).values()
    beside = Beside("StreamReader.readexactly", theirs, goal=6)
    return [Comparison(f"a mux frame of {PAYLOAD} bytes decoded", ours, (beside,))]


def _decoding(times: int) -> float:
    began = time.process_time()
    count = sum(len(decode()) for _ in range(times))
    return (time.process_time() - began) / count


def _reading(times: int) -> float:
    async def repeat() -> float:
        began = time.process_time()
        count = 0
        for _ in range(times):
            count += len(await read())
        return (time.process_time() - began) / count

    return asyncio.run(repeat())
