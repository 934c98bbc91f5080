"""The pytest plugin: every test is blamed for what it leaves behind, and for nothing else.

Off unless `--leaks`, the ini value `leaks` or a marker asks for it; then little more than this
module is loaded, and no loop is touched.
"""

import pytest

from muxleak.plugin import options
from muxleak.plugin.options import LeakWarning
from muxleak.plugin.summary import Summary

__all__ = ["LeakWarning"]

_SUMMARY = pytest.StashKey[Summary]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; refuse settings that are not valid.

    Raises:
        pytest.UsageError: a setting is not valid; the message says what is.
    """
    config.addinivalue_line("markers", options.NO_LEAKS)
    config.addinivalue_line("markers", options.LEAKS_ALLOWED)
    mode = options.mode_of(config)
    summary = config.stash[_SUMMARY] = Summary(config, mode)
    options.check_baseline(config, mode)
    if mode != "off":
        summary.set_up(options.settings_of(config))
    config.pluginmanager.register(summary, "muxleak-summary")
    named = options.replays_of(config)
    if named is not None:
        from muxleak.plugin.replays import Replays  # noqa: PLC0415 - only such sessions pay for it

        config.pluginmanager.register(Replays(named), "muxleak-replays")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the tests, if that is asked for.

    Raises:
        pytest.UsageError: a marker's arguments are not valid; the message says what is.
    """
    summary = config.stash[_SUMMARY]
    summary.collected(items)
    if summary.mode == "off" and not any(map(options.is_marked, items)):
        return
    from muxleak.plugin.session import Checks  # noqa: PLC0415 - only sessions that check pay for it
    from muxleak.plugin.verdicts import Court  # noqa: PLC0415 - the same

    settings = summary.settings or options.settings_of(config)
    court = Court(summary.baseline, update=settings.update)
    checks = Checks(config, settings, court)
    for item in items:
        try:
            checks.plan(item)
        except pytest.UsageError:
            # A worker of pytest-xdist would crash; there the setup of the test raises it again.
            if not hasattr(config, "workerinput"):
                raise
    config.pluginmanager.register(court, "muxleak-court")
    config.pluginmanager.register(checks, "muxleak-checks")
