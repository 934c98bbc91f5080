"""The loops that tests run on; uvloop's need not be installed."""

import asyncio
from importlib import import_module
from importlib.util import find_spec

import pytest

from muxleak.sim.virtual_loop import VirtualLoop

needs_uvloop = pytest.mark.skipif(find_spec("uvloop") is None, reason="needs: pip install uvloop")


def new_uvloop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's."""
    return import_module("uvloop").new_event_loop()  # type: ignore[no-any-return]


UVLOOP = pytest.param(new_uvloop, marks=needs_uvloop, id="uvloop")
REAL = pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, UVLOOP])
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, UVLOOP, VirtualLoop])
