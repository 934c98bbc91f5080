"""Import names of earlier versions, and the modules that they stand for now."""

# Earlier versions installed three packages: harness, scenarios and vless. Replay files of that time
# may name a program in one of them, and programs of that time import from them. The three names are
# too common to stay: a project's own module of such a name has to win, always. So they are looked
# up here only after the import system has found no module of the name at all, and nothing is ever
# put into `sys.modules` under an old name.
#
# `MOVED` has the packages, the modules that hold programs, and those whose path was documented or
# likely to be imported. The longest entry that a name begins with counts; the rest of the name is
# kept, so submodules that kept their place need no entry.

import linecache
import re
from types import TracebackType

MOVED = {
    "harness": "muxleak",
    "harness.growth": "muxleak.checks.growth",
    "harness.kinds": "muxleak.ledger.kinds",
    "harness.loop": "muxleak.sim.virtual_loop",
    "harness.memory": "muxleak.sim.memory_transport",
    "harness.report": "muxleak.checks.report",
    "harness.settle": "muxleak.checks.settle",
    "harness.sim.drawn": "muxleak.search.strategies",
    "scenarios": "muxleak_scenarios",
    "scenarios.bench.schedules": "muxleak_scenarios.bench.search_runs",
    "scenarios.steps": "muxleak_scenarios.sequence.steps",
    "scenarios.strategies": "muxleak_scenarios.sequence.strategies",
    "vless": "muxleak_vless",
}
PACKAGES = frozenset(name for name in MOVED if "." not in name)
_NAMES = re.compile(rf"\b({'|'.join(sorted(PACKAGES))})((?:\.\w+)*)\b")


def new_name(module: str) -> str:
    """Return the name that a module of an earlier version has now, or "" if it is none of them."""
    head = module
    while head and head not in MOVED:
        head = head.rpartition(".")[0]
    return MOVED[head] + module.removeprefix(head) if head else ""


def advice(error: ModuleNotFoundError) -> str:
    """Return what to change in the import statement that failed, or "" if it names none of them.

    Args:
        error: was raised by the statement; its traceback leads to the line.
    """
    if error.name not in PACKAGES:
        return ""
    text = f"{error.name} is now {MOVED[error.name]}"
    statement = _statement(error.__traceback__)
    if not _NAMES.search(statement):
        return text
    changed = _NAMES.sub(lambda found: new_name(found[0]), statement)
    return f"{text}: {changed.removesuffix('(').rstrip()}{' ...' * changed.endswith('(')}"


def _statement(traceback: TracebackType | None) -> str:
    """Return the innermost line of source; the import system's own have none."""
    statement = ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if line := linecache.getline(filename, traceback.tb_lineno).strip():
            statement = line
        traceback = traceback.tb_next
    return statement
