"""Checks one variant of one server of a user, in an environment that has its library.

Prints one line of JSON: true if something was reported, the name of another exception, the text,
and the seconds that the check has taken.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from muxleak import LeakError, check_server, ignore_created_by, ignore_name

SERVERS = Path(__file__).parent / "servers"
_REASON = "a leak of the library"


def main() -> None:
    """Check, print the outcome, and end the process at once: threads of a library may be left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", help="module of the server")
    parser.add_argument("variant", help="name of the function that gives it")
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--target", default="simulated")
    parser.add_argument("--replay", default="")
    parser.add_argument("--ignore", action="append", default=[], metavar="NAME")
    options = parser.parse_args()
    # The libraries log each malformed message, and warn of what the clients leave them with.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    program = importlib.import_module(options.program)

    def own(name: str, default: Any = None) -> Any:
        """Return a setting of this variant, or else of the program."""
        return getattr(
            program, f"{options.variant.upper()}_{name}", getattr(program, name, default)
        )

    settings = {
        "messages": own("MESSAGES"),
        "target": options.target,
        "sequences": options.sequences,
        "replay": options.replay,
        "ignore": [
            ignore(each, reason=_REASON)
            for each in options.ignore
            for ignore in (ignore_created_by, ignore_name)
        ],
        **own("OPTIONS", {}),
    }
    began = time.perf_counter()
    found, error, text = False, None, ""
    try:
        check_server(getattr(program, options.variant), **settings)
    except Exception as exception:  # noqa: BLE001 - whatever it is, it is the outcome
        found = isinstance(exception, LeakError)
        error = None if found else type(exception).__name__
        text = "\n".join([str(exception), *getattr(exception, "__notes__", ())])
    seconds = time.perf_counter() - began
    answer = {"found": found, "error": error, "text": text, "seconds": seconds}
    print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, str(SERVERS))
    main()
