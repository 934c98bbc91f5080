"""Counts the goroutines of a V2Ray, which has no goroutine profile, over its gRPC API."""

# V2Ray's StatsService answers GetSysStats with a SysStatsResponse (app/stats/command/command.proto
# in v2ray-core 4): a protobuf message of plain numbers, of which two are read here. grpcio carries
# the request, whose message is empty. A parser of a few lines takes the place of generated code,
# which would need protoc or another dependency; fields of later versions are skipped by their wire
# type (protobuf.dev, Encoding).
#
# The number counts every goroutine of the server, and so those of the API's own connection. The
# channel therefore stays open between samples: its goroutines are in every count and cancel out.

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
"""Fields of the answer: goroutines, and bytes of heap objects with garbage."""
_OPTIONS = (
    # The environment may name a proxy for HTTP; the API is not behind it.
    ("grpc.enable_http_proxy", 0),
    # Not shared with other channels, and connected again soon after the server was restarted.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10


class V2RayStats:
    """Counts goroutines and heap of a V2Ray, from the StatsService of its API.

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
        """Take a sample.

        Raises:
            CounterError: no counts came.
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
    """Parse a SysStatsResponse.

    Raises:
        ValueError: it is no such message, or has no number of goroutines.
    """
    numbers = dict(_numbers(answer))
    goroutines = numbers.get(_NUM_GOROUTINE, 0)
    if not goroutines:
        raise ValueError(f"no number of goroutines, in {answer[:20].hex(' ') or 'nothing'}")
    return Snapshot(Counter({GOROUTINES: goroutines}), numbers.get(_ALLOC))


def _numbers(message: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and value of the varint fields of a protobuf message; skip all others."""
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
