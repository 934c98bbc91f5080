"""Tests a server under generated sequences of connections: `check_server`."""

from muxleak.server.check import check_server
from muxleak.server.connection import ClientStreams
from muxleak.server.events import EVENTS

__all__ = ["EVENTS", "ClientStreams", "check_server"]
