"""Every reader under mutated input: documented errors only, no growth, and no case that is slow.

`python tests/mutate.py` does the same with a million cases for each reader.
"""

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

import mutations
from mutations import SUBJECTS, MutationError, Subject, run

SLOW = 40_000


@pytest.mark.parametrize("name", SUBJECTS)
def test_reader_accepts_its_samples(name: str) -> None:
    """They are what is mutated."""
    subject = SUBJECTS[name]()
    for sample in subject.samples:
        subject.read(sample, Random(0))


@pytest.mark.parametrize("name", SUBJECTS)
def test_reader_stands_some_mutations(name: str) -> None:
    """Cases of every kind, some of them accepted."""
    figures = run(name, 300)

    assert figures.refused
    assert figures.accepted


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_reader_stands_many_mutations(name: str) -> None:
    """Of another seed, and without growth."""
    figures = run(name, SLOW, seed=1)

    assert figures.grown < 8_000_000
    assert figures.tasks <= 0  # fewer, if a collection frees those of earlier tests


def test_case_depends_on_its_seed_alone() -> None:
    """A fault is found again by its number and seed."""
    for make in SUBJECTS.values():
        subject = make()
        one, other = ([mutations.mutated(subject, Random(7)) for _ in range(9)] for _ in range(2))
        assert one == other


def _raises(error: Exception) -> Callable[[bytes], object]:
    def read(_: bytes) -> object:
        raise error

    return read


PLANTED: dict[str, tuple[Any, str]] = {
    "another error": (lambda data: data.decode(), "UnicodeDecodeError"),
    "a recursion": (lambda _: json.loads("[" * 100_000), "RecursionError"),
    "a long message": (_raises(ValueError("x" * 5000)), "cannot be shown"),
    "no message": (_raises(ValueError()), "cannot be shown"),
    "half a pair": (_raises(ValueError("\ud800")), "cannot be shown"),
    "a subclass": (_raises(json.JSONDecodeError("", "", 0)), "of another class"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_mutations_find_a_planted_fault(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of fault that they are to find."""
    read, message = PLANTED[plant]
    subject = Subject(
        (b"sample",), lambda data, _: read(data + b"\xff"), (ValueError,), mutations._bytes
    )
    monkeypatch.setitem(SUBJECTS, "planted", lambda: subject)

    with pytest.raises(MutationError, match=message):
        run("planted", 10)


@pytest.mark.slow
def test_mutations_find_planted_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of memory and of tasks."""
    kept: list[object] = []

    async def forever() -> None:
        """Never run."""

    def read(data: bytes, _: Random) -> None:
        kept.append((data, bytes(2_000)))
        if len(kept) in {50, 500}:
            kept.append(loop.create_task(forever()))

    loop = asyncio.new_event_loop()
    subject = Subject((b"sample",), read, (ValueError,), mutations._bytes)
    monkeypatch.setitem(SUBJECTS, "planted", lambda: subject)
    monkeypatch.setattr(mutations, "_MEASURED", 1)
    figures = run("planted", 2_000)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert figures.grown > 2_000_000
    assert figures.tasks == 2
