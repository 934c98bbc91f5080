"""Malformed bytes: each is refused by the decoders for the reason it is named after."""

from uuid import UUID

import pytest

from muxleak_scenarios.sequence.malformed import bad_header, junk, partial
from muxleak_scenarios.sequence.steps import BAD_HEADERS, JUNK
from muxleak_scenarios.targets.target import USER
from muxleak_vless import ProtocolError
from muxleak_vless.errors import TruncatedError
from muxleak_vless.frames import FrameDecoder
from muxleak_vless.header import RequestDecoder


@pytest.mark.parametrize("what", JUNK)
def test_junk_is_fatal(what: str) -> None:
    """The frame decoder refuses it without waiting for more bytes."""
    decoder = FrameDecoder()
    decoder.receive_data(junk(what))

    with pytest.raises(ProtocolError):
        decoder.next_frame()


@pytest.mark.parametrize("size", [*range(14), 1000])
def test_partial_frame_is_no_frame(size: int) -> None:
    """However much is asked for, something is missing; at the end it is truncated."""
    decoder = FrameDecoder()
    decoder.receive_data(partial(size))

    assert decoder.next_frame() is None
    if size:
        with pytest.raises(TruncatedError):
            decoder.receive_eof()
    assert len(partial(size)) == min(size, 13)


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_bad_header_is_refused_or_not_for_this_server(what: str) -> None:
    """Either it cannot be decoded, or it names a user, flow or command that is not served."""
    decoder = RequestDecoder()
    try:
        request = decoder.receive_data(bad_header(what, USER))
    except ProtocolError:
        assert what in {"version", "address", "garbage"}
        return
    assert request is not None
    assert {
        "user": request.user == UUID(int=0),
        "flow": bool(request.addons.flow),
        "command": request.command not in (1, 2, 3),
    }[what]
