"""Fixtures of all tests."""

import asyncio
import gc
import signal
import threading
from collections.abc import Iterator

import hypothesis
import pytest

from muxleak.introspect.sites import short_path
from muxleak.ledger.ledger import Ledger
from muxleak.sim.virtual_loop import VirtualLoop

_END = 5  # seconds in which a thread that was told to end does so
# On a busy machine an example may take long to draw, which says nothing about the strategy. Where
# Hypothesis sees a CI, it prints one line more, on which the tests of its output must not depend.
hypothesis.settings.register_profile(
    "patient",
    hypothesis.settings(),
    deadline=None,
    print_blob=False,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

_DEFAULTS = {
    getattr(signal, name): handler
    for name, handler in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    )
    if hasattr(signal, name)
}


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """A test heeds signals, as in the foreground; shells have those behind an ``&`` ignore some."""
    ignored = [each for each in _DEFAULTS if signal.getsignal(each) == signal.SIG_IGN]
    for each in ignored:
        signal.signal(each, _DEFAULTS[each])
    yield
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)


@pytest.fixture(scope="module")
def small_heap() -> Iterator[None]:
    """Take the objects of all other tests out of the collector's sight, for the tests of a module.

    A check that reports a leak collects garbage and walks the heap, which thousands of tests and
    their modules would make ten times as large as a user's. The variables of modules are out of
    sight, too, so that tests of what a module holds do without.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def no_chance() -> Iterator[None]:
    """Collect garbage on demand only."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def sites_relative_to_here() -> None:
    """Forget the paths that were shortened in the folder of an earlier test."""
    short_path.cache_clear()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread: checks wait for it, as it might end a leak of theirs."""
    before = set(threading.enumerate())
    yield
    left = [each for each in threading.enumerate() if each not in before]
    for each in left:
        each.join(_END)
    assert not [each for each in left if each.is_alive()]


@pytest.fixture(autouse=True)
def no_ledger_left() -> Iterator[None]:
    """Fail a test that leaves a ledger on a loop: tasks of later tests would be counted there."""
    before = asyncio.Task
    yield
    assert asyncio.Task is before


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """A loop on virtual time, disposed of at the end."""
    with VirtualLoop() as loop:
        yield loop


@pytest.fixture
def ledger(loop: VirtualLoop) -> Iterator[Ledger]:
    """A ledger installed on `loop`."""
    with Ledger().watching(loop) as ledger:
        yield ledger
