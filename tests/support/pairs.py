"""Pairs for tests whose outcome does not depend on which: `muxleak verify` proves them all."""

from muxleak_scenarios import find_pair

SOME_SLUGS = (
    "watcher_outlives_connection",  # the flagship
    "new_after_cleanup",  # needs a gap
    "long_write_breaks_framing",  # caught by something else than what is left behind
)
SOME_PAIRS = tuple(find_pair(slug) for slug in SOME_SLUGS)
