"""Runs the ten bugs and the three programs without one many times, and prints how many are found.

python many.py [--runs N] [--burners N] [--loop asyncio|uvloop]

A bug counts as found if kind and line are those that its comments announce, and nothing else is
reported; a program without a bug, if nothing is. Exits with 1 unless every run is right.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from microbug_runs import PROGRAMS, expected, run, sites
from processes import burning


def main() -> int:
    parser = argparse.ArgumentParser(description="finds the micro-bugs again and again")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--burners", type=int, default=0)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    options = parser.parse_args()
    names = [name for name in PROGRAMS if name[0] in "bn"]
    right, began = dict.fromkeys(names, 0), time.monotonic()
    with burning(options.burners):
        for _ in range(options.runs):
            for name in names:
                found = run(name, "repeat", options.loop)
                if sites(found) == expected(name, "repeat", options.loop):
                    right[name] += 1
                else:
                    print(f"{name}: {found['text'] or 'nothing found'}")
    for name, number in right.items():
        print(f"{name:28} right in {number} of {options.runs} runs")
    bugs = sum(number for name, number in right.items() if name[0] == "b")
    accused = sum(options.runs - number for name, number in right.items() if name[0] == "n")
    python = ".".join(map(str, sys.version_info[:3]))
    print(
        f"{bugs} of {10 * options.runs} bugs found, "
        f"{accused} of {3 * options.runs} programs without one accused; "
        f"CPython {python}, {options.loop}, {options.burners} burners, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0 if set(right.values()) == {options.runs} else 1


if __name__ == "__main__":
    raise SystemExit(main())
