"""Tells our marker `no_leaks` from markers of that name of other tools, such as pyleak's."""

# Another tool may have a marker of the same name: `@pytest.mark.no_leaks("tasks", blocking=True)`
# is pyleak's. It says nothing to this plugin, so it is left alone: it neither checks the test nor
# stops the session. A misspelt marker of ours must not be left alone, or the test would pass
# unchecked. So the arguments decide:
#
#   arguments                                        the marker is
#   ---------------------------------------------    ------------------------------------------
#   a keyword that is ours, or close to one          ours; the other arguments must be ours, too
#   a kind by position, as in no_leaks("task")       ours, and wrong: kinds go by keyword
#   others                                           another tool's
#   none                                             another tool's, if a plugin has one; else ours
#
# A marker that no loaded plugin can be seen to have is named in a line of the summary.

from difflib import get_close_matches

import pytest

from muxleak.plugin.options import IN_INI, MARKS, declarations

OPTIONS = ("kinds", "budget", "ignore", "repeat")
_PLUGINS = ("pyleak",)  # those that read the marker without declaring it


def is_foreign(mark: pytest.Mark, config: pytest.Config) -> bool:
    """Return True if a marker of our name has the form of another tool's.

    Args:
        mark: any marker of the plugin.
        config: of the session, whose plugins decide about a marker without arguments.
    """
    if mark.name != MARKS[0]:
        return False
    if any(get_close_matches(name, OPTIONS) for name in mark.kwargs):
        return False
    if not (mark.args or mark.kwargs):
        return has_owner(config)
    if not mark.args:
        return True
    from muxleak.ledger.kinds import KINDS  # noqa: PLC0415 - only such a marker pays for it

    named = [each if isinstance(each, list | tuple | set) else [each] for each in mark.args]
    return not any(isinstance(name, str) and name in KINDS for names in named for name in names)


def has_owner(config: pytest.Config) -> bool:
    """Return True if another plugin of the session has a marker of our name."""
    if any(map(config.pluginmanager.has_plugin, _PLUGINS)):
        return True
    # A line in the ini file does not tell who reads the marker: under --strict-markers a project
    # that can do without this plugin needs one for our marker.
    return declarations(config) > config.stash.get(IN_INI, 0) + 1


def shown(item: pytest.Item, mark: pytest.Mark) -> str:
    """Return a test and its marker as text."""
    arguments = [
        *map(repr, mark.args),
        *(f"{name}={value!r}" for name, value in mark.kwargs.items()),
    ]
    return f"{item.nodeid}: {mark.name}({', '.join(arguments)})"
