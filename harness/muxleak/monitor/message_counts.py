"""Counts lost exceptions, messages to the exception handler, and ResourceWarnings, by site."""

# A service runs for weeks, so nothing is kept of a message but a count: one for each kind, text and
# site, and one for all that come after `most` of these. The texts have no addresses and numbers
# (see `loop_errors` and `resource_warnings`).

from collections import Counter

from muxleak.ledger.counters import Resource

MORE = "others"

_Key = tuple[str, str, str]


class MessageCounts:
    """Counts messages by kind, text and site.

    Args:
        most: number of counts, without the one for all others of each kind.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[_Key] = Counter()

    def add(self, record: Resource) -> None:
        """Count a message; may be called from inside a collection, and by any thread."""
        key = record.kind, record.name, str(record.site)
        if key not in self._counts and len(self._counts) >= self._most:
            key = record.kind, MORE, "unknown"
        self._counts[key] += 1

    def total(self, kind: str) -> int:
        """Return the number of messages of a kind."""
        return sum(count for key, count in [*self._counts.items()] if key[0] == kind)

    def all_counts(self) -> list[tuple[_Key, int]]:
        """Return each count, the highest first."""
        return sorted([*self._counts.items()], key=lambda item: -item[1])
