"""The soak: it counts, stops at a violation, and notices growth."""

import gc

from muxleak_scenarios import SimTarget, find_pair, run_sequence
from muxleak_scenarios.bench.soak import BLOCKS, SLACK, TENTHS, Soaked, Tenth, soak
from muxleak_scenarios.pairs.registry import FLAGSHIP
from muxleak_vless import Lifecycle

PAIR = find_pair(FLAGSHIP)
kept: list[object] = []


class Growing(SimTarget):
    """A target that keeps much memory of every run."""

    def dispose(self) -> None:
        """End everything, and keep something."""
        super().dispose()
        kept.append(bytearray(b"x" * SLACK))


class Hoarding(SimTarget):
    """A target that keeps very many small objects of every run."""

    def dispose(self) -> None:
        """End everything, and keep something."""
        super().dispose()
        kept.extend(object() for _ in range(BLOCKS))


def test_soak_of_the_fixed_variant_is_flat() -> None:
    """As many connections as asked for, in tenths that follow each other; the collector is back."""
    found = soak(PAIR.fixed, 100)

    assert found.flat
    assert found.connections >= 100
    assert found.sequence is None
    counts = [tenth.connections for tenth in found.tenths]
    assert counts == sorted(counts)
    assert counts[-1] == found.connections
    assert len(counts) == TENTHS
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert found.to_json()["flat"] is True


def test_soak_does_without_the_collector() -> None:
    """Objects that only the collector could free must show."""
    enabled: list[bool] = []

    def note(_connections: int) -> bool:
        enabled.append(gc.isenabled())
        return False

    soak(PAIR.fixed, 20, progress=note)

    assert enabled
    assert not any(enabled)


def test_soak_is_flat_if_neither_memory_nor_blocks_grow() -> None:
    """From the second tenth on: the first fills caches. Where memory cannot be asked, by blocks."""

    def soaked(*sizes: tuple[int, int | None]) -> Soaked:
        return Soaked([Tenth(1, 0.0, 0.0, *each) for each in sizes])

    flat = soaked((0, 0), (7, 10), (7 + BLOCKS, 10 + SLACK))
    assert (flat.blocks, flat.grown, flat.flat) == (BLOCKS, SLACK, True)
    assert not soaked((0, 0), (7, 10), (7, 11 + SLACK)).flat
    assert not soaked((0, 0), (7, 10), (8 + BLOCKS, 10)).flat
    assert soaked((0, None), (0, None), (BLOCKS, None)).grown == 0
    assert not Soaked(violation="tasks").flat


def test_soak_of_the_buggy_variant_ends_with_the_first_violation() -> None:
    """The reported sequence violates the property again."""
    found = soak(PAIR.buggy, 1000)

    assert not found.flat
    assert found.connections < 1000
    assert found.sequence is not None
    assert str(run_sequence(found.sequence, PAIR.buggy()).violations[0]) == found.violation


def test_soak_notices_growth() -> None:
    """Memory that is kept from run to run is no property's business, and is noticed here."""
    found = soak(Lifecycle, 150, target=Growing)
    kept.clear()

    assert found.violation == ""
    assert not found.flat
    assert found.grown > SLACK


def test_soak_sees_small_things_that_pile_up() -> None:
    """Memory that the allocator already had shows in the number of blocks."""
    found = soak(Lifecycle, 150, target=Hoarding)
    kept.clear()

    assert found.violation == ""
    assert not found.flat
    assert found.blocks > BLOCKS


def test_soak_ends_on_request() -> None:
    """It ends after the run in which it was asked to."""
    found = soak(Lifecycle, 10_000, progress=lambda connections: connections > 20)

    assert 20 < found.connections < 200
