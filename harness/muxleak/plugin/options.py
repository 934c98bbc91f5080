"""The options, ini values and markers of the plugin, and the settings of a run."""

# This module is loaded in every pytest session of a project with the distribution installed, so it
# imports nothing of the package; the functions that need more import it when a check is on.
#
# An option on the command line wins over the ini value. A marker wins over both, for its test.
# Each value is checked before the first test, and a wrong one is a usage error that lists the valid
# ones. An option that would have no effect is an error, too: a run that was meant to compare with a
# baseline, and does not, looks like a suite without leaks.

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest

BUDGET = 0.5  # seconds, as of `no_leaks`
MODES = ("strict", "warn", "off")

LEAKS = """\
fail (strict) or warn of (warn) each test that leaves tasks, timers, transports, generators, \
threads and the like behind; off, the default, checks only tests marked no_leaks. \
Example: pytest --leaks=strict\
"""
BASELINE = """\
file of leaks that the suite already has: a leak in the file passes, a new leak fails, and an \
entry whose leak no longer occurs must be removed. Needs --leaks=strict or --leaks=warn. \
Example: pytest --leaks=strict --leaks-baseline=leaks.toml\
"""
BASELINE_OLD = "deprecated name of {}, which wins if both are given\n"
UPDATE = """\
write the leaks of this run to the baseline. Entries of tests that did not run stay. A leak that \
fails its test by an explicit no_leaks is left out, since no entry excuses it. \
Example: pytest --leaks=strict --leaks-baseline=leaks.toml --leaks-update\
"""
KINDS_HELP = """\
kinds of objects to check; all by default. Example: leaks_kinds = task timer transport\
"""
BUDGET_HELP = """\
seconds after a test within which its objects may end by themselves (0.5 by default). \
Example: leaks_budget = 2\
"""
IGNORE_HELP = """\
leaks to ignore in every test, one on each line: created_by, name or waiting_in, a pattern, # and \
the reason. Example: created_by Pool.start  # one pool for all tests\
"""
REPLAYS = """\
run the replay files that `muxleak fuzz module:callable` writes (*.sim.json) as tests: each fails \
as long as its program fails. This imports the programs that the files name. Without it, a file on \
the command line runs with its program: pytest FILE::MODULE:CALLABLE. \
Example: pytest --leaks-replays\
"""
REPLAYS_EXACT = """\
run replay files as --leaks-replays does, and fail a run that passes on another course than the \
recorded one. Without it, the summary names such runs. \
Example: pytest --leaks-replays-exact\
"""
REPLAY_SUFFIX = ".sim.json"  # the same as in `muxleak.sim.replay`, which is not imported here
NO_LEAKS = """\
no_leaks(kinds=all, budget=0.5, ignore=(), repeat=None): fail the test if it leaves objects of \
these kinds behind, also with --leaks=off or --leaks=warn. budget: seconds within which they may \
end by themselves. ignore: values made by muxleak.ignore_name and the like. repeat: run an async \
test this many times, and fail if a count grows with each run. \
Example: @pytest.mark.no_leaks(kinds=["task", "timer"])\
"""
LEAKS_ALLOWED = """\
leaks_allowed(reason): do not check the test for leaks. \
Example: @pytest.mark.leaks_allowed(reason="the daemon is meant to stay")\
"""
MARKS = ("no_leaks", "leaks_allowed")
IN_INI = pytest.StashKey[int]()  # lines of the ini file that declare our marker
_SETTABLE = ("created_by", "name", "waiting_in")


class LeakWarning(pytest.PytestWarning):
    """A test left something behind, with `leaks = warn`."""

    __module__ = "muxleak.plugin"


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The settings of a run.

    Attributes:
        mode: one of `MODES`.
        kinds: a subset of `kinds.KINDS`.
        budget: seconds within which an object may end by itself.
        ignores: values of `muxleak.checks.ignores`.
        baseline: the file of leaks that pass; None without one.
        update: True if the run writes the baseline.
    """

    mode: str
    kinds: frozenset[str]
    budget: float
    ignores: tuple[Any, ...]
    baseline: Path | None
    update: bool


def add(parser: pytest.Parser) -> None:
    """Declare the options and ini values."""
    group = parser.getgroup("leaks", "leaks of tests (muxleak)")
    group.addoption("--leaks", choices=MODES, default=None, help=LEAKS)
    group.addoption("--leaks-baseline", metavar="FILE", default=None, help=BASELINE)
    old = BASELINE_OLD.format("--leaks-baseline")
    group.addoption("--leaks-known", metavar="FILE", default=None, help=old)
    group.addoption("--leaks-update", action="store_true", help=UPDATE)
    group.addoption("--leaks-replays", action="store_true", help=REPLAYS)
    # An option of its own: an optional value would take the path that follows for its value.
    group.addoption("--leaks-replays-exact", action="store_true", help=REPLAYS_EXACT)
    parser.addini("leaks", LEAKS, default="off")
    parser.addini("leaks_baseline", BASELINE, default="")
    parser.addini("leaks_known", BASELINE_OLD.format("leaks_baseline"), default="")
    parser.addini("leaks_kinds", KINDS_HELP, type="args", default=[])
    parser.addini("leaks_budget", BUDGET_HELP, default="")
    parser.addini("leaks_replays", REPLAYS, type="bool", default=False)
    parser.addini("leaks_replays_exact", REPLAYS_EXACT, type="bool", default=False)
    parser.addini("leaks_ignore", IGNORE_HELP, type="linelist", default=[])


def replays_of(config: pytest.Config) -> dict[Path, set[str]] | None:
    """Return the replay files on the command line, each with the programs named after it.

    An empty dict stands for all files, with the programs that they name; None for none.
    """
    if config.getoption("leaks_replays") or config.getini("leaks_replays") or is_exact(config):
        return {}
    here = config.invocation_params.dir
    named: dict[Path, set[str]] = {}
    for path, _, program in (each.partition("::") for each in config.args):
        if path.endswith(REPLAY_SUFFIX):
            named.setdefault(Path(here, path).resolve(), set()).add(program)
    return named or None


def is_exact(config: pytest.Config) -> bool:
    """Return True if a replay that takes another course than the recorded run fails."""
    return bool(config.getoption("leaks_replays_exact") or config.getini("leaks_replays_exact"))


def mode_of(config: pytest.Config) -> str:
    """Return the mode of the run.

    Raises:
        pytest.UsageError: the ini value is not a mode.
    """
    mode = str(config.getoption("leaks") or config.getini("leaks")).strip()
    if mode not in MODES:
        raise pytest.UsageError(
            f"ini value leaks = {mode!r} is not valid; expected one of {', '.join(MODES)}"
        )
    return mode


def settings_of(config: pytest.Config) -> PluginSettings:
    """Return the settings of the run.

    Raises:
        pytest.UsageError: a value is not valid; the message lists the valid ones.
    """
    from muxleak.ledger.kinds import DEFAULT_KINDS  # noqa: PLC0415 - only runs that check pay for it

    kinds = frozenset(config.getini("leaks_kinds") or DEFAULT_KINDS)
    if kinds != DEFAULT_KINDS:
        valid("ini value leaks_kinds", kinds=kinds)
    budget, ignores = _budget(config), tuple(_ignores(config.getini("leaks_ignore")))
    update = bool(config.getoption("leaks_update"))
    return PluginSettings(mode_of(config), kinds, budget, ignores, _baseline(config), update)


def check_baseline(config: pytest.Config, mode: str) -> None:
    """Refuse options for the baseline that would have no effect.

    Raises:
        pytest.UsageError: an option needs a file or a mode; the message says which.
    """
    # --leaks=off on the command line overrides `addopts`, which may hold the file as well.
    option = _baseline_option(config)
    if config.getoption("leaks_update"):
        option = "--leaks-update"
        if _baseline(config) is None:
            raise pytest.UsageError(
                "--leaks-update needs the file to write: add --leaks-baseline=FILE, or "
                "leaks_baseline = FILE in the ini file"
            )
    elif config.getoption("leaks") == "off":
        return
    if option and mode == "off":
        raise pytest.UsageError(
            f"{option} has no effect with leaks = off: add --leaks=strict or --leaks=warn (ini "
            "value: leaks)"
        )


def notes(config: pytest.Config) -> list[str]:
    """Return a line for each deprecated name in use, and one for a baseline that is not used."""
    lines = []
    if config.getoption("leaks_known"):
        lines.append("--leaks-known is deprecated: use --leaks-baseline")
    if config.getini("leaks_known"):
        lines.append("ini value leaks_known is deprecated: use leaks_baseline")
    option = _baseline_option(config)
    if option and config.getoption("leaks") == "off":
        lines.append(f"{option} has no effect with --leaks=off")
    return lines


def is_marked(item: pytest.Item) -> bool:
    """Return True if a marker with a name of the plugin's applies to a test."""
    # One pass over the nodes; `get_closest_marker` makes one for each name.
    node: Any = item
    while node is not None:
        for mark in node.own_markers:
            if mark.name in MARKS:
                return True
        node = node.parent
    return False


def declarations(config: pytest.Config) -> int:
    """Return the number of declarations of our marker, those of the ini file included."""
    names = (line.partition(":")[0].partition("(")[0] for line in config.getini("markers"))
    return sum(name.strip() == MARKS[0] for name in names)


def valid(where: str, **options: Any) -> None:
    """Check arguments for `no_leaks` by the rules of `no_leaks`.

    Raises:
        pytest.UsageError: `no_leaks` refuses them; the message begins with `where`.
    """
    from muxleak.checks.no_leaks import no_leaks  # noqa: PLC0415 - only runs that check pay for it

    try:
        no_leaks(**options)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{where}: {error}") from error


def _baseline_option(config: pytest.Config) -> str:
    """Return the option on the command line that names a baseline, or an empty string."""
    for name in ("leaks_baseline", "leaks_known"):
        if config.getoption(name):
            return f"--{name.replace('_', '-')}"
    return ""


def _baseline(config: pytest.Config) -> Path | None:
    given = config.getoption("leaks_baseline") or config.getoption("leaks_known")
    if given:
        return Path(config.invocation_params.dir, given)
    written = str(config.getini("leaks_baseline") or config.getini("leaks_known")).strip()
    base = config.inipath.parent if config.inipath is not None else config.rootpath
    return base / written if written else None


def _budget(config: pytest.Config) -> float:
    written = str(config.getini("leaks_budget")).strip()
    if not written:
        return BUDGET
    try:
        budget = float(written)
    except ValueError:
        budget = 0.0
    if not 0 < budget < inf:
        raise pytest.UsageError(
            f"ini value leaks_budget: expected a budget in seconds above 0, got {written!r}"
        )
    return budget


def _ignores(lines: Iterable[str]) -> Iterable[Any]:
    from muxleak.checks import ignores  # noqa: PLC0415 - only runs that check pay for it

    for line in lines:
        value, _, reason = line.partition("#")
        by, _, pattern = value.strip().partition(" ")
        if by not in _SETTABLE or not pattern.strip() or not reason.strip():
            raise pytest.UsageError(
                f"ini value leaks_ignore: expected one of {', '.join(_SETTABLE)}, a pattern, # and "
                f"a reason, got {line!r}"
            )
        make = getattr(ignores, f"ignore_{by}")
        yield make(pattern.strip(), reason=reason.strip())
