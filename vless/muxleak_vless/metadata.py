"""What a mux.cool frame says, and its metadata: what it does and what follows the option byte.

Metadata is stream id (2 bytes), status (1), option (1) and the rest, which is, for New: network
(1), address and, for UDP with data, a Global ID (8); for Keep: nothing, or network UDP and the
address of this packet. Whatever else stands there means nothing and is kept as padding.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from muxleak_vless.address import NetworkType, decode_address, encode_address
from muxleak_vless.errors import FrameError

if TYPE_CHECKING:
    from muxleak_vless.address import Address

# Plain numbers: an IntFlag makes an object per test, which would double the cost of a frame.
DATA: Final = 0x01
ERROR: Final = 0x02

MIN_METADATA: Final = 4
MAX_METADATA: Final = 512  # as in Xray and V2Ray; sing-vmess has no bound
GLOBAL_ID_SIZE: Final = 8

_MIN_NEW: Final = 8  # id, status, option, network, port, address type
_AT_NETWORK: Final = 4
_AT_TARGET: Final = 5
_NETWORKS: Final = {int(network): network for network in NetworkType}
_UDP_BYTE: Final = bytes((NetworkType.UDP,))


class FrameStatus(IntEnum):
    """What a frame does to its stream."""

    NEW = 1
    KEEP = 2
    END = 3
    KEEP_ALIVE = 4


class Frame(NamedTuple):
    """One frame. Encoding what was decoded gives the same bytes.

    Attributes:
        stream_id: 0 to 65535, chosen by the client.
        status: What the frame does.
        option: The bits `DATA` and `ERROR`; others mean nothing and are kept.
        network: Of a New, and UDP where a Keep has a target.
        target: Where a New goes to; of a UDP Keep, where its packet goes to or came from.
        global_id: 8 bytes that name a UDP session across connections; all zero means none.
        data: The payload; None without the data bit, which is not the same as empty.
        padding: Metadata bytes that mean nothing.
    """

    stream_id: int
    status: FrameStatus
    option: int = 0
    network: NetworkType | None = None
    target: Address | None = None
    global_id: bytes | None = None
    data: bytes | None = None
    padding: bytes = b""

    @property
    def is_error(self) -> bool:
        """Whether the stream ended by a failure; the bit means nothing in other frames."""
        return self.status is FrameStatus.END and self.option & ERROR != 0

    @classmethod
    def new(
        cls,
        stream_id: int,
        network: NetworkType,
        target: Address,
        data: bytes | None = None,
        global_id: bytes | None = None,
    ) -> Frame:
        """Open a stream, perhaps with its first data."""
        option = 0 if data is None else DATA
        return cls(stream_id, FrameStatus.NEW, option, network, target, global_id, data)

    @classmethod
    def keep(cls, stream_id: int, data: bytes, target: Address | None = None) -> Frame:
        """Carry data of an open stream; a target makes it a UDP packet of that address."""
        network = None if target is None else NetworkType.UDP
        return cls(stream_id, FrameStatus.KEEP, DATA, network, target, None, data)

    @classmethod
    def end(cls, stream_id: int, *, error: bool = False) -> Frame:
        """Close a stream."""
        return cls(stream_id, FrameStatus.END, ERROR if error else 0)


def encode_rest(frame: Frame) -> bytes:
    """Write what follows the option byte.

    Raises:
        ValueError: A value does not fit its field, or the decoder would read another frame.
    """
    _, status, _, network, target, global_id, _, padding = frame
    if not _is_readable(frame):
        got = f"{status!r} with {network!r}, {target!r}, {global_id!r}, {padding!r}"
        raise ValueError(f"metadata: expected what the status allows, got {got}")
    if network is None or target is None:
        return padding
    return bytes((network,)) + encode_address(target) + (global_id or b"") + padding


def decode_rest(
    metadata: bytes, status: FrameStatus, option: int, origin: int
) -> tuple[NetworkType | None, Address | None, bytes | None, bytes]:
    """Read what follows the option byte: network, target, Global ID, padding.

    Args:
        metadata: All of it, from the stream id on.
        status: Read from it already.
        option: The same.
        origin: The metadata's offset in the stream; only error messages need it.

    Raises:
        FrameError: A New is too short, its network unknown, or a target is malformed.
    """
    if status is FrameStatus.NEW:
        if len(metadata) < _MIN_NEW:
            expected = f"{_MIN_NEW} to {MAX_METADATA} for New"
            raise FrameError("frame metadata length", origin - 2, expected, str(len(metadata)))
        network = _NETWORKS.get(metadata[_AT_NETWORK])
        if network is None:
            found = str(metadata[_AT_NETWORK])
            raise FrameError("network", origin + _AT_NETWORK, "1 (TCP) or 2 (UDP)", found)
    elif status is FrameStatus.KEEP and metadata[_AT_NETWORK:_AT_TARGET] == _UDP_BYTE:
        network = NetworkType.UDP
    else:
        return None, None, None, metadata[_AT_NETWORK:]
    target, size = decode_address(metadata, _AT_TARGET, origin, FrameError)
    if target is None:
        found = f"{len(metadata) - _AT_TARGET} to the end of the metadata"
        raise FrameError("target", origin + _AT_TARGET, f"{size} bytes", found)
    at = _AT_TARGET + size
    if _may_have_global_id(status, option, network) and len(metadata) - at >= GLOBAL_ID_SIZE:
        stop = at + GLOBAL_ID_SIZE
        return network, target, metadata[at:stop], metadata[stop:]
    return network, target, None, metadata[at:]


def _may_have_global_id(status: FrameStatus, option: int, network: NetworkType | None) -> bool:
    return status == FrameStatus.NEW and network == NetworkType.UDP and option & DATA != 0


def _is_readable(frame: Frame) -> bool:
    """Tell whether the rest, once written, would be read as it is."""
    _, status, option, network, target, global_id, _, padding = frame
    if (network is None) is not (target is None):
        return False
    may_have_id = _may_have_global_id(status, option, network)
    if global_id is not None:
        return may_have_id and target is not None and len(global_id) == GLOBAL_ID_SIZE
    if status == FrameStatus.NEW:
        return target is not None and not (may_have_id and len(padding) >= GLOBAL_ID_SIZE)
    if status == FrameStatus.KEEP:
        return network == NetworkType.UDP if target is not None else padding[:1] != _UDP_BYTE
    return target is None
