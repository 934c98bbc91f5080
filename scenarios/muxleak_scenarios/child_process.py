"""Modules of ours that run in another process."""

from __future__ import annotations

import sys
from pathlib import Path

import muxleak
import muxleak_scenarios
import muxleak_vless

_ROOTS = [
    str(Path(str(package.__file__)).parents[1])
    for package in (muxleak, muxleak_vless, muxleak_scenarios)
]


def module(name: str) -> list[str]:
    """Return the words that run a module as a program, whatever the current folder has.

    ``python -m`` would look there first, and folders are named as ours are.
    """
    code = (
        f"import runpy, sys; sys.path[:0] = [each for each in {_ROOTS!r} if each not in sys.path]; "
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", "-c", code]
