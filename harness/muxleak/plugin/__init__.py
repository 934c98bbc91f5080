"""The pytest plugin: attributes each leak to the test or fixture that made it.

The plugin is off unless `--leaks`, the ini value `leaks` or a marker enables it. While it is off,
only this module, `options` and `summary` are loaded, and no event loop is touched.
"""

# The modules, and when each is loaded:
#
# - `options`, `summary`: in every session of a project that has the distribution installed. So they
#   import nothing but pytest and the standard library; functions import the rest.
# - `attribution` (the hooks that charge tests), `item_checks`, `loop_watcher`, `outcomes`,
#   `runners`: in a session with a test to check.
# - `foreign_marks`: in those, and with a marker of the plugin's name.
# - `leak_reports`: when a test may have left something behind.
# - `baseline`: with a baseline. `replays`: with replay files.

import pytest

from muxleak.plugin import options
from muxleak.plugin.options import LeakWarning
from muxleak.plugin.summary import Summary

__all__ = ["LeakWarning"]

_SUMMARY = pytest.StashKey[Summary]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add(parser)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Count the declarations of our marker while those of the ini file are the only ones."""
    early_config.stash[options.IN_INI] = options.declarations(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and read the settings.

    Raises:
        pytest.UsageError: a setting is not valid; the message lists the valid ones.
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
    """Register the hooks that check tests, if a mode or a marker enables them.

    Raises:
        pytest.UsageError: a marker's arguments are not valid; the message lists the valid ones.
    """
    summary = config.stash[_SUMMARY]
    summary.collected(items)
    marked = [item for item in items if options.is_marked(item)]
    ours = summary.without_foreign(marked) if marked else False
    if summary.mode == "off" and not ours:
        return
    from muxleak.plugin.attribution import Attribution  # noqa: PLC0415 - only sessions that check pay for it
    from muxleak.plugin.outcomes import Outcomes  # noqa: PLC0415 - the same
    from muxleak.plugin.runners import refuse_fuzzer  # noqa: PLC0415 - the same

    refuse_fuzzer(config, summary.mode)
    settings = summary.settings or options.settings_of(config)
    outcomes = Outcomes(summary.baseline, update=settings.update)
    attribution = Attribution(config, settings, outcomes)
    for item in items:
        try:
            attribution.plan(item)
        except pytest.UsageError:
            # A worker of pytest-xdist would crash; there the setup of the test raises it again.
            if not hasattr(config, "workerinput"):
                raise
    config.pluginmanager.register(outcomes, "muxleak-outcomes")
    config.pluginmanager.register(attribution, "muxleak-attribution")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Note the tests that their runner hides; now each runner has its tests."""
    attribution = session.config.pluginmanager.get_plugin("muxleak-attribution")
    if attribution is not None:
        session.config.stash[_SUMMARY].hidden(attribution.unseen(session.items))
