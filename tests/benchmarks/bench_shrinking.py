"""How short the findings are: each pair, searched and shrunk with several seeds.

Run ``python tests/benchmarks/bench_shrinking.py [SEEDS]``. Prints a row for each pair: the number
of seeds whose finding has no more steps than the minimal sequence (closes are not counted), the
median of the runs spent on shrinking, and the CPU time of search and shrinking for each seed. Exits
with 1 if less than 97 of 100 searches end with a shortest finding.
"""

# ruff: noqa: T201 - a benchmark prints

import statistics
import sys
import time

from muxleak.search import search
from muxleak_scenarios import load_pairs
from muxleak_scenarios.pairs.registry import Pair
from muxleak_scenarios.pairs.subject import SequenceSubject
from muxleak_scenarios.pairs.verify import SEARCH_EXAMPLES, length

SEEDS = 10
_GOAL = 0.97


def row(pair: Pair, seeds: int) -> int:
    """Search a pair with each seed, print the row, and return the number of shortest findings."""
    subject = SequenceSubject(pair.buggy, name=pair.slug, properties=frozenset(pair.facts.fails))
    shortest, shrinks, longest = 0, [], ""
    began = time.process_time()
    for seed in range(seeds):
        found = search(subject, examples=SEARCH_EXAMPLES, seed=seed)
        if found is None:
            longest = f"nothing found with seed {seed}"
            continue
        shrinks.append(found.shrinks)
        if length(found.outcome.sequence) <= length(pair.minimal):
            shortest += 1
        else:
            longest = f"seed {seed}: {found.outcome.sequence}"
    seconds = (time.process_time() - began) / seeds
    runs = statistics.median(shrinks) if shrinks else 0
    figures = f"{shortest:3} of {seeds:3}  {runs:5.0f} runs  {seconds:6.2f} s"
    print(f"{pair.slug:30} {figures}  {longest}".rstrip(), flush=True)
    return shortest


def main() -> int:
    """Print the table, and return the exit code."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    began = time.process_time()
    shortest = [row(pair, seeds) for pair in load_pairs().values()]
    total = seeds * len(shortest)
    print(f"{sum(shortest)} of {total} shortest, {time.process_time() - began:.0f} s of CPU time")
    return int(sum(shortest) < _GOAL * total)


if __name__ == "__main__":
    sys.exit(main())
