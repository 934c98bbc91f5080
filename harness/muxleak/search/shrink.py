"""The shrinker: makes the bytes of a failing run shorter and smaller while it fails alike."""

# Smaller bytes are a simpler run (see `muxleak.sim.choices`): fewer steps, earlier options, no
# fault, first in, first out. So the shrinker needs no knowledge of steps or faults. It is greedy:
# it tries simpler bytes, boldest first, and starts again from each success.
#
# The order of the candidates decides how many runs are spent. First everything at once (no bytes at
# all, no decision of the environment), then blocks of the program from large to small, then the
# environment's decisions set to 0, then single values. Deleting a byte of the environment comes
# late: it shifts the decisions about all later arrivals and seldom succeeds.
#
# `_renumbered` is for programs that draw an index into a list of their own, such as their open
# connections: without the step that opened one, the later index must fall by one as well.

from collections.abc import Callable, Iterator
from typing import NamedTuple

_STEPS = (4, 3, 2, 1)  # bytes that one step of a program may take
_FEW = 8  # values that are all tried
_BLOCKS = (64, 32, 16, 8, 6, 5, 4, 3, 2, 1)


class Bytes(NamedTuple):
    """The decisions of a run: the program's draws and the environment's decisions."""

    program: bytes
    environment: bytes

    def order(self) -> tuple[object, ...]:
        """Return a sort key: smaller is simpler, and the program counts first."""
        return (
            len(self.program),
            len(self.environment) - self.environment.count(0),
            len(self.environment),
            self.program,
            self.environment,
        )


Attempt = Callable[[Bytes], Bytes | None]


def shrink(
    start: Bytes,
    attempt: Attempt,
    *,
    attempts: int = 2_000,
    enough: Callable[[Bytes, int], object] = lambda _best, _spent: False,
) -> tuple[Bytes, int]:
    """Return the simplest failing bytes that can be reached.

    Args:
        start: bytes that fail.
        attempt: makes a run with the bytes; returns the bytes that it used, in normal form, if it
            failed in the same way, else None.
        attempts: number of runs, at most.
        enough: called before each run with the simplest bytes so far and the runs spent; a true
            value ends the shrinking.

    Returns:
        The bytes, and the number of runs spent.
    """
    best, spent = start, 0
    seen = {start}
    candidates = _candidates(best)
    while spent < attempts:
        candidate = next(candidates, None)
        if candidate is None:
            break
        if candidate in seen or candidate.order() >= best.order():
            continue
        if enough(best, spent):
            break
        seen.add(candidate)
        spent += 1
        used = attempt(candidate)
        if used is not None and used.order() < best.order():
            best = used
            seen.add(best)
            candidates = _candidates(best)
    return best, spent


def _candidates(best: Bytes) -> Iterator[Bytes]:
    """Yield simpler bytes, boldest first."""
    program, environment = best
    yield Bytes(b"", b"")
    yield Bytes(program, b"")
    yield from (Bytes(each, environment) for each in _shorter(program))
    yield from (Bytes(program, each) for each in _plainer(environment))
    yield from (Bytes(each, environment) for each in _smaller(program))
    yield from (Bytes(program, each) for each in _smaller(environment))
    yield from (Bytes(program, each) for each in _shorter(environment))
    yield from (Bytes(each, environment) for each in _renumbered(program))


def _shorter(data: bytes) -> Iterator[bytes]:
    """Yield the bytes without one block, from the end."""
    for size in _BLOCKS:
        for at in range(len(data) - size, -1, -1):
            yield data[:at] + data[at + size :]


def _renumbered(data: bytes) -> Iterator[bytes]:
    """Yield the bytes without one block, and one later byte less by 1."""
    for size in _STEPS:
        for at in range(len(data) - size):
            rest = data[at + size :]
            for index, value in enumerate(rest):
                if value:
                    yield data[:at] + rest[:index] + bytes([value - 1]) + rest[index + 1 :]


def _plainer(data: bytes) -> Iterator[bytes]:
    """Yield the bytes with one block set to 0."""
    for size in _BLOCKS:
        for at in range(0, len(data), size):
            if any(block := data[at : at + size]):
                yield data[:at] + bytes(len(block)) + data[at + size :]


def _smaller(data: bytes) -> Iterator[bytes]:
    """Yield the bytes with one byte made smaller."""
    for at, value in enumerate(data):
        for less in _less(value):
            yield data[:at] + bytes([less]) + data[at + 1 :]


def _less(value: int) -> list[int]:
    """Return smaller values to try, smallest first."""
    if value <= _FEW:
        return list(range(value))
    return sorted({0, 1, 2, 3, value // 2, value - 1})
