"""The folders that hold the three packages, for tests that start another Python."""

import os
from pathlib import Path

import muxleak
import muxleak_scenarios
import muxleak_vless

_PACKAGES = (muxleak, muxleak_vless, muxleak_scenarios)
# Installed from a wheel, all three are in one folder.
_FOLDERS = dict.fromkeys(str(Path(str(each.__file__)).parents[1]) for each in _PACKAGES)

PYTHONPATH = os.pathsep.join(_FOLDERS)
"""The value of the environment variable of that name with which all three can be imported."""
