"""Checks that an optional package is installed, and names the command that installs it."""

# The base install brings click and rich, for the command line; the plugin, `no_leaks`, the
# simulator and its own search need neither. Hypothesis draws and shrinks connection sequences, and
# choices for `simulate` inside a `@given` test. It is an extra because it takes a quarter of a
# second to import and registers a pytest plugin of its own, which a project that only counts its
# tasks has not asked for.
#
# So no module imports Hypothesis at its top. The functions that need it import it, after a call of
# `need_hypothesis`: their modules hold types and constants that every command imports. The
# exception is `search.machine`, whose class derives from one of Hypothesis; it is imported lazily.

from importlib.util import find_spec

HOW = "pip install 'muxleak[fuzz]'"


def need_hypothesis(use: str) -> None:
    """Check that Hypothesis is installed.

    Args:
        use: the name of the function or command that needs it, for the message.

    Raises:
        ImportError: it is not; the message has the command that installs it.
    """
    if find_spec("hypothesis") is None:
        raise ImportError(f"{use} needs Hypothesis, which is an extra: {HOW}", name="hypothesis")
