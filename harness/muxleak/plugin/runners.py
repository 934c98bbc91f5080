"""Test runners of others: those whose tests cannot be checked, and contexts of their own."""

# The plugin sees a test whose body runs in the main thread, between the hooks of that test, in the
# context that the hooks set. Each runner was tried with a test that leaks and one that does not:
#
#   runner                                       tests
#   ------------------------------------------   -------------------------------------------------
#   pytest-asyncio, anyio, unittest, aiohttp     checked (see `attribution`)
#   alt-pytest-asyncio 0.9.6                     checked: all of them, plain ones too, run in one
#                                                context of its own, in which the scope is set, too
#   pytest-asyncio-concurrent 0.5.2              checked: the tests of a group run in a task each,
#                                                and so in a context each, inside the hooks
#   pytest-asyncio-cooperative 0.40.0            not checked: all bodies and fixtures have run, on
#                                                a loop that is running still, before any hook
#   pytest-run-parallel 0.10.0                   not checked where it starts threads: several run
#                                                one body at a time, and their loops are not ours
#   hypofuzz 25.11.1                             not checked: it only collects tests with pytest
#
# A test that cannot be checked must not look like one without leaks. So they are named once, in the
# summary, and fail the run in strict mode.

import sys
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, NamedTuple

import pytest

_ALT = "alt_pytest_asyncio.plugin"
_FUZZER = "hypofuzz.collection"


class HidingRunner(NamedTuple):
    """A runner with tests that cannot be checked.

    Attributes:
        name: of its distribution.
        reason: the clause that follows "it".
        present: returns True if the runner is in use.
        runs: returns True for a test that it runs so.
    """

    name: str
    reason: str
    present: Callable[[pytest.PytestPluginManager], bool]
    runs: Callable[[pytest.Item], bool]


def unseen(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """Return the tests that cannot be checked, by a clause that names the runner and the reason.

    Args:
        items: all tests of the session, when collection has finished: until then a runner may
            change them.
    """
    found: dict[str, list[pytest.Item]] = {}
    present: list[HidingRunner] | None = None
    for item in items:
        if present is None:
            manager = item.config.pluginmanager
            present = [each for each in _RUNNERS if each.present(manager)]
        if not present:
            break
        for runner in present:
            if runner.runs(item):
                found.setdefault(f"{runner.name}: it {runner.reason}", []).append(item)
    return found


def contexts(config: pytest.Config) -> tuple[Context, ...]:
    """Return the contexts, beside the current one, in which runners run tests and fixtures."""
    return tuple(filter(None, map(_context, _alternatives(config.pluginmanager))))


def refuse_fuzzer(config: pytest.Config, mode: str) -> None:
    """Say that hypofuzz, if it collects the tests, runs them unchecked.

    Args:
        config: of the session.
        mode: of `options.MODES`.

    Raises:
        pytest.UsageError: in strict mode.
    """
    plugins = config.pluginmanager.get_plugins()
    if not any(type(each).__module__ == _FUZZER for each in plugins):
        return
    text = "tests run by hypofuzz cannot be checked for leaks: it calls no hook of a test"
    if mode == "strict":
        raise pytest.UsageError(f"{text}; add --leaks=off to its arguments for pytest")
    # hypofuzz drops the standard output of the collection, and with it the summary.
    sys.stderr.write(f"muxleak: {text}\n")


def _alternatives(manager: pytest.PytestPluginManager) -> list[Any]:
    return [each for each in manager.get_plugins() if type(each).__module__ == _ALT]


def _context(plugin: Any) -> Context | None:
    # There is no public name for it. A release that renames it has tests that cannot be checked.
    found = getattr(getattr(plugin, "_converter", None), "_ctx", None)
    return found if isinstance(found, Context) else None


def _is_threaded(item: pytest.Item) -> bool:
    function = getattr(item, "obj", None)
    names: dict[str, Any] = getattr(function, "__globals__", {})
    return names.get("__name__") == "pytest_run_parallel.plugin"


def _is_cooperative(item: pytest.Item) -> bool:
    return any(mark.name == "asyncio_cooperative" for mark in item.own_markers)


_RUNNERS = (
    HidingRunner(
        "pytest-asyncio-cooperative",
        "runs their bodies before any hook of a test",
        lambda manager: bool(manager.has_plugin("asyncio-cooperative")),
        _is_cooperative,
    ),
    HidingRunner(
        "pytest-run-parallel",
        "runs their bodies in threads of its own",
        lambda manager: bool(manager.has_plugin("run-parallel")),
        _is_threaded,
    ),
    HidingRunner(
        "alt-pytest-asyncio",
        "runs their bodies in a context that this release of it does not show",
        lambda manager: None in map(_context, _alternatives(manager)),
        lambda _item: True,
    ),
)
