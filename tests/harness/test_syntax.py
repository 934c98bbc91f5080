"""Sources are parsed whatever the collector does."""

import ast
import gc
from collections.abc import Iterator

import pytest

from muxleak.introspect.syntax import parse

SOURCE = "def f():\n" + "    g([a, b], {c: d})\n" * 300


class Parses:
    """Garbage whose finalizer parses, as one that logs a traceback does on CPython 3.11."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        ast.parse("f(x)")


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Collect after every 50 new objects."""
    before = gc.get_threshold()
    gc.set_threshold(50)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("eager_collector")
def test_finalizers_that_parse_do_not_disturb() -> None:
    """A parse is not interrupted by a finalizer that parses: 3.11 fails with SystemError then."""
    for _ in range(50):
        Parses()
        assert len(parse(SOURCE).body) == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_collector_is_left_as_it_was(*, enabled: bool) -> None:
    """Also when the text is no source."""
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(SyntaxError):
            parse("def")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
