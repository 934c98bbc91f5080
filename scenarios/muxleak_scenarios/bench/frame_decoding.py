"""Cost of a decoded mux frame, beside a frame read with `asyncio.StreamReader`."""

from __future__ import annotations

import asyncio
import time
from functools import cache, partial
from struct import Struct
from typing import TYPE_CHECKING

from muxleak_scenarios.bench.measure import Beside, Comparison, in_turns
from muxleak_vless.frames import DATA, FrameDecoder, data_frames

if TYPE_CHECKING:
    from muxleak_scenarios.bench.measure import BenchPlan

PAYLOAD = 128
"""Bytes of data in a frame."""
CHUNK = 64 * 1024
"""Bytes that arrive at once."""
_CHUNKS = 50
_LENGTH = Struct(">H")
_META = Struct(">HBB")


@cache
def chunk() -> bytes:
    """Return as many frames of `PAYLOAD` bytes as fit into `CHUNK` bytes, on three streams."""
    frames = (data_frames(1 + at % 3, bytes([at % 256]) * PAYLOAD)[0] for at in range(CHUNK))
    data = b""
    for frame in frames:
        if len(data) + len(frame) > CHUNK:
            break
        data += frame
    return data


def decode() -> list[tuple[int, bytes]]:
    """Decode a chunk as the server does; return stream id and data of every frame."""
    decoder = FrameDecoder()
    decoder.receive_data(chunk())
    frames = list(decoder.keeps())
    if decoder.next_frame() is not None:
        raise AssertionError("every frame of the chunk is a Keep with data")
    return frames


async def read() -> list[tuple[int, int, int, bytes]]:
    """Read a chunk with asyncio's streams; return id, status, option and data of every frame."""
    # A lower bound for readers of this kind: it makes no frame objects, checks no field, and has
    # every byte in its buffer before it begins, so that no read suspends.
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


def measure(plan: BenchPlan) -> list[Comparison]:
    """Compare a decoded frame with one read by `StreamReader.readexactly`."""
    times = plan.size(_CHUNKS)
    works = {"ours": partial(_decoding, times), "streams": partial(_reading, times)}
    ours, theirs = in_turns(works, plan).values()
    beside = Beside("StreamReader.readexactly", theirs, goal=7)
    return [Comparison(f"a mux frame of {PAYLOAD} bytes decoded", ours, (beside,))]


def _decoding(times: int) -> float:
    began = time.process_time()
    count = sum(len(decode()) for _ in range(times))
    return (time.process_time() - began) / count


def _reading(times: int) -> float:
    # Timed inside the coroutine: the price of a new loop is not the price of a frame.
    async def repeat() -> float:
        began = time.process_time()
        count = 0
        for _ in range(times):
            count += len(await read())
        return (time.process_time() - began) / count

    return asyncio.run(repeat())
