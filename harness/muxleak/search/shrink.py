"""The shrinker: makes the decisions of a failing run fewer and smaller while it fails alike."""

# Smaller decisions are a simpler run (see `muxleak.sim.choices`): fewer steps, earlier options, no
# fault, first in, first out. So the shrinker knows nothing of events, frames or faults.
#
# It is a generator that yields decisions to try and is sent what the run used, or None if the run
# did not fail alike. So it makes no run itself: `shrink` drives it with runs that end at once, and
# a hunt with measurements that it awaits.
#
# The passes; after a round in which one of them succeeded, all are made again:
#
#   cuts         no decision at all; none of the environment; the large cuts that are advised
#   fewer        without a row of steps: half of them, a quarter, down to one. Where the subject
#                marks no steps, blocks of a few sizes stand for them
#   plainer      blocks of the environment's decisions set to 0
#   smaller      one value lower, the program's first; or the lower values that are advised
#   shifted      without some decisions of the environment: this moves the later ones to other
#                events, and seldom succeeds
#   two at once  without one step, and one value elsewhere changed with it: lower by one, lowest, or
#                the value of the step that goes. So an index into a list of the program's own can
#                fall with the step that opened its entry, and a step can take over the data of
#                another
#   anew         steps that are drawn anew, fewer than there are: the way to sequences to
#                which no one or two changes lead
#
# The last two cost the most runs. They are made for few steps only, and not where runs are costly.
# `fewer` goes on from its place after a success: what could not go before seldom can afterwards,
# and the next round tries again.
#
# Each candidate is brought into its normal form first (`Advice.normal`). None is tried twice.

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from muxleak.search.subject import Decisions

if TYPE_CHECKING:
    from muxleak.search.subject import Advice

ATTEMPTS = 4_000
"""Runs that the shrinker may ask for."""
_FEW_VALUES = 8  # values that are all tried
_FEW_STEPS = 12  # steps for which two changes at once are tried
_FEW_DRAWS = 120  # draws without marked steps for which they are tried
_ANEW = 300  # runs that are drawn anew for each number of steps
_BLOCKS = (64, 32, 16, 8, 6, 5, 4, 3, 2, 1)  # of decisions; a step of a program takes up to 6

Shrinking = Generator[Decisions, Decisions | None, Decisions]
_Trying = Generator[Decisions, Decisions | None, None]


def shrink(
    start: Decisions,
    attempt: Callable[[Decisions], Decisions | None],
    *,
    advice: Advice | None = None,
    attempts: int = ATTEMPTS,
    seed: int = 0,
    enough: Callable[[Decisions, int], object] = lambda _best, _spent: False,
) -> tuple[Decisions, int]:
    """Return the simplest failing decisions that can be reached.

    Args:
        start: decisions that fail.
        attempt: makes a run; returns the decisions that it used, if it failed in the same way, else
            None.
        advice: advises which decisions to try; None for no advice.
        attempts: number of runs, at most.
        seed: of the steps that are drawn anew.
        enough: called before each run with the simplest decisions so far and the runs spent; a true
            value ends the shrinking.

    Returns:
        The decisions, and the number of runs spent.
    """
    best, spent = start, 0
    candidates = shrinking(start, advice=advice, seed=seed)
    candidate = next(candidates, None)
    while candidate is not None and spent < attempts and not enough(best, spent):
        spent += 1
        used = attempt(candidate)
        if used is not None and used.order < best.order:
            best = used
        try:
            candidate = candidates.send(used)
        except StopIteration:
            break
    return best, spent


def shrinking(start: Decisions, *, advice: Advice | None = None, seed: int = 0) -> Shrinking:
    """Yield the decisions to try, one after the other.

    The generator must be sent the decisions that each run used if it failed in the same way, else
    None.

    Args:
        start: decisions that fail.
        advice: advises which decisions to try; None for no advice.
        seed: of the steps that are drawn anew.

    Returns:
        The simplest decisions that failed.
    """
    shrinker = _Shrinker(start, advice, seed)
    before = None
    while before != shrinker.best:
        before = shrinker.best
        yield from shrinker.round()
    return shrinker.best


class _Shrinker:
    """The simplest decisions so far, and all decisions that were tried."""

    def __init__(self, start: Decisions, advice: Advice | None, seed: int) -> None:
        self.best = start
        self._advice = advice
        self._seed = seed
        self._thorough = advice is None or not advice.costly
        self._seen = {start}

    def round(self) -> _Trying:
        """Make each pass once."""
        yield from self._each(self._cuts)
        yield from self._fewer_steps() if self.best.starts else self._each(_fewer_draws)
        yield from self._each(_plainer)
        if self._advice is None or self._advice.lower(self.best) is None:
            yield from self._smaller()
        else:
            yield from self._each(self._lower)
        yield from self._each(_shifted)
        if self._thorough:
            yield from self._each(_two_at_once if self.best.starts else _renumbered)
            yield from self._anew()

    def _try(self, candidate: Decisions) -> Generator[Decisions, Decisions | None, bool]:
        """Ask for one run, unless it is known; return True if it is now the best."""
        if not self._is_new(candidate):
            return False
        if self._advice is not None:
            normal = self._advice.normal(candidate)
            if normal is None or (normal != candidate and not self._is_new(normal)):
                return False
            candidate = normal
        used = yield candidate
        if used is None or used.order >= self.best.order:
            return False
        self._seen.add(used)
        self.best = used
        return True

    def _is_new(self, candidate: Decisions) -> bool:
        """Return True for simpler decisions that were not tried, and note that they are."""
        if candidate in self._seen or candidate.order >= self.best.order:
            return False
        self._seen.add(candidate)
        return True

    def _each(self, candidates: Callable[[Decisions], Iterator[Decisions]]) -> _Trying:
        """Try candidates made from the best; after a success, those made from the new one."""
        again = True
        while again:
            again = False
            for candidate in candidates(self.best):
                if (yield from self._try(candidate)):
                    again = True
                    break

    def _cuts(self, best: Decisions) -> Iterator[Decisions]:
        yield Decisions()
        yield best._replace(environment=b"", starts=tuple((at, 0) for at, _ in best.starts))
        if self._advice is not None:
            yield from self._advice.cuts(best)

    def _lower(self, best: Decisions) -> Iterator[Decisions]:
        if self._advice is not None:
            yield from self._advice.lower(best) or ()

    def _fewer_steps(self) -> _Trying:
        """Try to leave out rows of steps, long rows first, from the end."""
        size = max(1, len(self.best.starts) // 2)
        while size:
            at = len(self.best.starts) - size
            while at > -size:
                steps = self.best.steps()
                rest = [*steps[: max(0, at)], *steps[at + size :]]
                yield from self._try(Decisions.joined(rest))
                at = min(at, len(self.best.starts)) - size
            size //= 2

    def _smaller(self) -> _Trying:
        """Try lower values, one after the other."""
        for part in ("program", "environment"):
            at = 0
            while at < len(data := getattr(self.best, part)):
                for less in _less(data[at], few=not self._thorough):
                    lower = data[:at] + bytes([less]) + data[at + 1 :]
                    if (yield from self._try(self.best._replace(**{part: lower}))):
                        break
                at += 1

    def _anew(self) -> _Trying:
        """Try steps that are drawn anew."""
        again = self._advice is not None
        while again and self._advice is not None:
            again = False
            for candidate in islice(self._advice.shorter(self.best, self._seed), _ANEW):
                if (yield from self._try(candidate)):
                    again = True
                    break


def _fewer_draws(best: Decisions) -> Iterator[Decisions]:
    """Yield the decisions without one block of the program's, from the end."""
    for each in _without_block(best.program):
        yield best._replace(program=each)


def _plainer(best: Decisions) -> Iterator[Decisions]:
    """Yield the decisions with one block of the environment's set to 0."""
    data = best.environment
    for size in _BLOCKS:
        for at in range(0, len(data), size):
            if any(block := data[at : at + size]):
                yield best._replace(
                    environment=data[:at] + bytes(len(block)) + data[at + len(block) :]
                )


def _shifted(best: Decisions) -> Iterator[Decisions]:
    """Yield the decisions without one block of the environment's."""
    for each in _without_block(best.environment):
        yield best._replace(environment=each)


def _two_at_once(best: Decisions) -> Iterator[Decisions]:
    """Yield the decisions without one step, and with one value of another step changed."""
    steps = best.steps()
    if len(steps) > _FEW_STEPS:
        return
    for gone in range(len(steps) - 1, -1, -1):
        lost = steps[gone][0]
        rest = [*steps[:gone], *steps[gone + 1 :]]
        for at, (draws, decided) in enumerate(rest):
            for index, value in enumerate(draws):
                others = {0, value - 1} if value else set()
                others.update(lost[index : index + 1])
                for other in sorted(others - {value}):
                    changed = draws[:index] + bytes([other]) + draws[index + 1 :]
                    yield Decisions.joined([*rest[:at], (changed, decided), *rest[at + 1 :]])


def _renumbered(best: Decisions) -> Iterator[Decisions]:
    """Yield the decisions without one block of draws, and one or all later draws less by one."""
    data = best.program
    if len(data) > _FEW_DRAWS:
        return
    for size in (4, 3, 2, 1):
        for at in range(len(data) - size):
            head, rest = data[:at], data[at + size :]
            for index, value in enumerate(rest):
                if value:
                    less = rest[:index] + bytes([value - 1]) + rest[index + 1 :]
                    yield best._replace(program=head + less)


def _without_block(data: bytes) -> Iterator[bytes]:
    for size in _BLOCKS:
        for at in range(len(data) - size, -1, -1):
            yield data[:at] + data[at + size :]


def _less(value: int, *, few: bool) -> list[int]:
    """Return smaller values to try, smallest first."""
    if few:
        return sorted({0, value // 2} - {value})
    if value <= _FEW_VALUES:
        return list(range(value))
    return sorted({0, 1, 2, 3, value // 2, value - 1})
