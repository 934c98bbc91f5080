"""The programs of the folder `microbugs`, each run in a process of its own under `no_leaks`.

A program says itself, by comments of the form ``# leak: KIND, KIND``, what is to be found on which
line; ``at unknown`` means that no line can be known, ``KIND?`` none on uvloop, and ``(growth)``
under ``repeat=`` only.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "microbugs"
ROOT = FOLDER.parent.parent
PROGRAMS = sorted(path.stem for path in FOLDER.glob("[bnx]*.py"))
_PATIENCE = 30  # seconds for a process
_MARK = re.compile(r"# leak: (\w+\??(?:, \w+\??)*)( at unknown)?( \(growth\))?$")


def expected(name: str, mode: str, loop: str = "asyncio") -> set[tuple[str, str]]:
    """Return the leaks that the program's comments announce: kind and "file:line"."""
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    found = ((number, _MARK.search(line)) for number, line in enumerate(lines, 1))
    return {
        (
            kind.rstrip("?"),
            "unknown"
            if match[2] or (kind.endswith("?") and loop == "uvloop")
            else f"tests/microbugs/{name}.py:{number}",
        )
        for number, match in found
        if match is not None and (mode == "repeat" or match[3] is None)
        for kind in match[1].split(", ")
    }


def run(name: str, mode: str, loop: str = "asyncio") -> dict[str, Any]:
    """Return the result of a check in a process of its own."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(FOLDER / "run.py"), name, mode, loop],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sites(found: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the leaks of a result in the form of `expected`."""
    return {(group["kind"], group["site"].split(" in ")[0]) for group in found["groups"]}
