"""Real traffic of V2Ray 4.34.0 with itself and with sing-box, decoded and written again."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxleak_vless.frames import Frame, FrameDecoder, FrameStatus, encode_frame
from muxleak_vless.header import (
    Request,
    RequestDecoder,
    Response,
    ResponseDecoder,
    encode_request,
    encode_response,
)

FOLDER = Path(__file__).parents[1] / "captures"
INDEX: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
STATUSES = {
    FrameStatus.NEW: "New",
    FrameStatus.KEEP: "Keep",
    FrameStatus.END: "End",
    FrameStatus.KEEP_ALIVE: "KeepAlive",
}


class Capture(NamedTuple):
    """One direction of one connection, and what the index says of it."""

    stream: bytes
    header: dict[str, Any]
    frames: list[dict[str, Any]]


class Decoded(NamedTuple):
    """What the decoders make of it."""

    header: Request | Response
    frames: list[Frame]


def load(name: str, side: str) -> Capture:
    """Read one direction."""
    connection = INDEX[name]["connections"][0]
    facts = connection["files"][side]
    stream = bytes.fromhex((FOLDER / facts["file"]).read_text(encoding="ascii"))
    assert len(stream) == facts["bytes"]
    assert not facts["cut"]
    assert connection[f"{side}_trailing_bytes"] == 0
    return Capture(stream, connection[f"{side}_header"], connection[f"{side}_frames"])


CAPTURES = {
    f"{name} {side}": functools.cache(functools.partial(load, name, side))
    for name in INDEX
    for side in ("c2s", "s2c")
}


def decode(capture: Capture, cuts: list[int]) -> Decoded:
    """Read a direction that comes in the pieces between the cuts and then ends."""
    opening = RequestDecoder() if "command" in capture.header else ResponseDecoder()
    decoder, header, frames = FrameDecoder(), None, []
    for start, stop in zip([0, *cuts], [*cuts, len(capture.stream)], strict=True):
        data = capture.stream[start:stop]
        if header is None:
            header = opening.receive_data(data)
            data = opening.trailing
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
    opening.receive_eof()
    decoder.receive_eof()
    assert header is not None
    return Decoded(header, frames)


def described(frame: Frame, at: int) -> dict[str, Any]:
    """Describe a frame in the words of the index."""
    size = len(encode_frame(frame)) - 2
    facts = {
        "at": at,
        "id": frame.stream_id,
        "meta_len": size if frame.data is None else size - 2 - len(frame.data),
        "option": frame.option,
        "status": STATUSES[frame.status],
    }
    if frame.data is not None:
        facts["data_len"] = len(frame.data)
    if frame.target is not None and frame.network is not None:
        facts |= {"host": frame.target.host, "port": frame.target.port}
        facts["network"] = frame.network.name
    return facts


def encode_header(header: Request | Response) -> bytes:
    """Write either header."""
    if isinstance(header, Request):
        return encode_request(header)
    return encode_response(header)


def test_captures_are_complete() -> None:
    """Every stream of the folder is in the index and so in these tests."""
    files = {
        connection["files"][side]["file"]
        for case in INDEX.values()
        for connection in case["connections"]
        for side in ("c2s", "s2c")
    }

    assert files == {path.name for path in FOLDER.glob("*.hex")}
    assert len(CAPTURES) == len(files) == 40
    assert all(case["error"] is None for case in INDEX.values())
    assert all(case["mux_connections"] == len(case["connections"]) == 1 for case in INDEX.values())


@pytest.mark.parametrize("name", CAPTURES)
def test_captures_fields(name: str) -> None:
    """Every field of header and frames is what the index says."""
    capture = CAPTURES[name]()
    header, frames = decode(capture, [])
    ends = [0]
    for frame in frames:
        ends.append(ends[-1] + len(encode_frame(frame)))

    facts = {"addons_len": 0, "header_len": len(encode_header(header)), "version": header.version}
    if isinstance(header, Request):
        assert header.target is None
        facts |= {"command": header.command}
        assert header.user == UUID(capture.header["uuid"])
        facts |= {"uuid": capture.header["uuid"]}
    assert facts == capture.header
    assert [described(*pair) for pair in zip(frames, ends, strict=False)] == capture.frames


@pytest.mark.parametrize("name", CAPTURES)
def test_captures_written_again(name: str) -> None:
    """What was decoded encodes to the captured bytes."""
    capture = CAPTURES[name]()
    header, frames = decode(capture, [])

    assert b"".join((encode_header(header), *map(encode_frame, frames))) == capture.stream


@pytest.mark.parametrize("name", CAPTURES)
def test_captures_byte_by_byte(name: str) -> None:
    """Single bytes give the same header and frames as the whole."""
    capture = CAPTURES[name]()

    assert decode(capture, list(range(1, len(capture.stream)))) == decode(capture, [])


@settings(deadline=None)
@given(st.sampled_from(sorted(CAPTURES)), st.lists(st.integers(0, 30_000), max_size=12))
def test_captures_any_segmentation(name: str, cuts: list[int]) -> None:
    """Any cuts give the same header and frames as the whole."""
    capture = CAPTURES[name]()
    inside = sorted(cut % (len(capture.stream) + 1) for cut in cuts)

    assert decode(capture, inside) == decode(capture, [])
