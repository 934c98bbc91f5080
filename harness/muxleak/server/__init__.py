"""Tests a server under generated sequences of connections: `check_server`."""

from muxleak.server.check import check_server, search_server, server_subject
from muxleak.server.connection import ClientStreams
from muxleak.server.events import EVENTS
from muxleak.server.regression import regression_test

__all__ = [
    "EVENTS",
    "ClientStreams",
    "check_server",
    "regression_test",
    "search_server",
    "server_subject",
]
