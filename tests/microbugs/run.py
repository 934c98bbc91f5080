"""Runs one program of this folder under `no_leaks` and prints what was found, as JSON.

python run.py PROGRAM repeat|once [asyncio|uvloop]
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from muxleak import LeakError, no_leaks


async def main(program: dict[str, Any], mode: str) -> dict[str, Any]:
    if "before" in program:
        await program["before"]()
    began = time.monotonic()
    found: dict[str, Any] = {"groups": [], "notes": [], "text": ""}
    try:
        if mode == "repeat":
            await no_leaks(repeat=6)(program["operation"])()
        else:
            await no_leaks(program["operation"])()
    except LeakError as error:
        found = error.report.to_json() | {"text": str(error)}
    return found | {"seconds": time.monotonic() - began}


if __name__ == "__main__":
    name, mode, loop = [*sys.argv[1:], "asyncio"][:3]
    # As a module, for what it holds must live as long as the process, as in a real program.
    sys.path.insert(0, str(Path(__file__).parent))
    program = vars(__import__(name))
    factory = __import__("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(main(program, mode))), flush=True)
