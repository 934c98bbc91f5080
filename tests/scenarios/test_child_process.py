"""Modules of ours in other processes."""

import os
import subprocess
from pathlib import Path

import pytest

from muxleak_scenarios import child_process


@pytest.mark.slow
def test_module_is_ours_whatever_the_current_folder_has(tmp_path: Path) -> None:
    """A folder or file of the same name there is not taken for it, nor one of its parts."""
    for each in ("muxleak", "muxleak_scenarios", "muxleak_vless", "click"):
        (tmp_path / each).mkdir()
        (tmp_path / each / "__init__.py").write_text("raise SystemExit(f'not {__name__}')")
    (tmp_path / "json.py").write_text("raise SystemExit('not json')")
    words = [*child_process.module("muxleak"), "replay", "V1 a:open a:close"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603 - our own program
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("violated: tasks: ")
