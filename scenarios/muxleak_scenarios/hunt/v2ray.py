"""Counting V2Ray, which has no goroutine profile but tells how many there are, over gRPC.

Its answer is a message of plain numbers, so it is read here, without generated code.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

from muxleak_scenarios.hunt.counters import GOROUTINES, SECONDS, CounterError, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW = "pip install 'muxleak[v2ray]'"
SERVICE = "v2ray.core.app.stats.command.StatsService"
_METHOD = f"/{SERVICE}/GetSysStats"
_NUM_GOROUTINE, _ALLOC = 1, 3
"""Fields of its answer: goroutines, and bytes of heap objects, garbage included."""
_OPTIONS = (
    # A counter on this machine is not behind the proxy that the environment may name.
    ("grpc.enable_http_proxy", 0),
    # A server that is started again is another one, and soon there.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10


class V2RayStats:
    """Goroutines and heap of a V2Ray, from the StatsService of its API.

    The channel stays open between looks, so that it is always counted, or never.

    Args:
        address: ``HOST:PORT`` of the API's inbound.

    Raises:
        ImportError: grpcio is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            self._grpc = import_module("grpc")
        except ImportError:
            raise ImportError(f"V2Ray's counts need grpcio, which is an extra: {HOW}") from None
        self._address = address
        self._channel: Any = None

    async def read(self) -> Snapshot:
        """Ask for the counts.

        Raises:
            CounterError: if they do not come.
        """
        if self._channel is None:
            self._channel = self._grpc.insecure_channel(self._address, options=_OPTIONS)
        call = self._channel.unary_unary(_METHOD)
        try:
            answer = await asyncio.to_thread(call, b"", timeout=SECONDS)
            return read_stats(answer)
        except self._grpc.RpcError as error:
            late = error.code() is self._grpc.StatusCode.DEADLINE_EXCEEDED
            details = f"{error.code().name}: {error.details()}"
            got = f"none within {SECONDS:g} s" if late else details
        except ValueError as error:
            got = str(error)
        raise CounterError(
            f"{self._address}: expected the counts of V2Ray's {SERVICE}, got: {got}; check that "
            "its configuration has stats and an api with the StatsService, and the address"
        )

    def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def read_stats(answer: bytes) -> Snapshot:
    """Read a SysStatsResponse.

    Raises:
        ValueError: if it is none, or does not say how many goroutines there are.
    """
    numbers = dict(_numbers(answer))
    goroutines = numbers.get(_NUM_GOROUTINE, 0)
    if not goroutines:
        raise ValueError(f"no number of goroutines, in {answer[:20].hex(' ') or 'nothing'}")
    return Snapshot(Counter({GOROUTINES: goroutines}), numbers.get(_ALLOC))


def _numbers(message: bytes) -> Iterator[tuple[int, int]]:
    """Yield the fields of a protobuf message that are plain numbers; others are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == _BYTES:
            size, at = _varint(message, at)
            at += size
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no protobuf message: {message[:20].hex(' ')}")
    if at > len(message):
        raise ValueError(f"a message that is cut short: {message[:20].hex(' ')}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at + place + 1
    raise ValueError(f"a number that does not end: {message[:20].hex(' ')}")
