"""Runs modules of this distribution in another process."""

from __future__ import annotations

import sys
from pathlib import Path

import muxleak
import muxleak_scenarios
import muxleak_vless

# The roots of the three packages, for a checkout that is not installed. They are searched before
# the installed packages, and `-P` keeps the current folder out of the search.
_ROOTS = [
    str(Path(str(package.__file__)).parents[1])
    for package in (muxleak, muxleak_vless, muxleak_scenarios)
]


def module(name: str) -> list[str]:
    """Return the command line that runs a module of this distribution.

    ``python -m`` would search the current folder first, and take a file or folder of the same name
    there for the module.
    """
    code = (
        f"import runpy, sys; sys.path[:0] = [each for each in {_ROOTS!r} if each not in sys.path]; "
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", "-c", code]
