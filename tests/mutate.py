"""Reads mutated files and bytes with every reader, and prints the figures.

Usage: python tests/mutate.py [--count 1000000] [--seed 0] [--only NAME]

A reader must refuse each of them with a documented error, or accept a value that comes back equal
when it is written; each within a second of CPU time. Exits with 1, and prints the input, if one
does otherwise, or if the memory has grown.
"""

# ruff: noqa: T201 - a program

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent
GROWTH = 8_000_000  # bytes: what an allocator may keep of the largest case


def main() -> int:
    """Run every subject and return the exit code."""
    sys.path.insert(0, str(ROOT / "support"))
    from mutations import SUBJECTS, MutationError, run  # noqa: PLC0415 - found only now

    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1_000_000, help="cases for each reader")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--only", choices=SUBJECTS, help="one reader")
    given = parser.parse_args()
    failed = False
    for name in [given.only] if given.only else SUBJECTS:
        try:
            figures = run(name, given.count, given.seed)
        except MutationError as fault:
            print(f"{name}: {fault}", flush=True)
            failed = True
        else:
            print(f"{name}: {figures}", flush=True)
            failed |= figures.grown > GROWTH or figures.tasks != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
