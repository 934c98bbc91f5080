"""Targets that run sequences, and a shorthand to run a line of notation."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import pytest

from muxleak_scenarios import Sequence, SequenceOutcome, SimTarget, Target, TcpTarget, run_sequence
from muxleak_vless import Lifecycle

TARGETS: dict[str, Callable[[Lifecycle], Target]] = {"simulated": SimTarget, "tcp": TcpTarget}
if find_spec("uvloop") is not None:
    TARGETS["uvloop"] = partial(TcpTarget, new_loop=import_module("uvloop").new_event_loop)


# A loop that cannot be seen into takes its time to settle.
_PARAMS = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "uvloop" else []) for name in TARGETS
]


# Over TCP its minimal sequence waits for the limit of a header, twice and in real time.
_SLOW_OVER_TCP = "[tcp-silent_peer]"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the pair that takes seconds over TCP as slow, before slow tests are left out."""
    for item in items:
        if item.name.endswith(_SLOW_OVER_TCP):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=_PARAMS)
def target(request: pytest.FixtureRequest) -> Callable[[Lifecycle], Target]:
    """Each target in turn; uvloop where it is installed."""
    return TARGETS[request.param]


@pytest.fixture
def run() -> Callable[..., SequenceOutcome]:
    """Run a line of notation: by default against the reference, simulated."""

    def run_line(
        line: str,
        lifecycle: Callable[[], Lifecycle] = Lifecycle,
        target: Callable[[Lifecycle], Target] = SimTarget,
    ) -> SequenceOutcome:
        return run_sequence(Sequence.parse(line), lifecycle(), target)

    return run_line
