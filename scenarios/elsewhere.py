"""Modules of ours that run in another process."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])


def module(name: str) -> list[str]:
    """Return the words that run a module as a program, whatever the current folder has.

    ``python -m`` would look there first, and folders are named as ours are.
    """
    code = (
        f"import runpy, sys; {_ROOT!r} in sys.path or sys.path.insert(0, {_ROOT!r}); "
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", "-c", code]
