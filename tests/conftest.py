"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest

from harness.ledger import Ledger
from harness.loop import VirtualLoop


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
