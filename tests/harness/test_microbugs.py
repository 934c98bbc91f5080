"""Reference programs: ten bugs, five that no other tool sees, and three without a bug."""

import pytest

from microbug_runs import PROGRAMS, expected, run, sites

# They wait for the budget, because a thread or a socket might still bring something.
WAITING = ("b05", "b08", "x4", "x5")


def check(name: str, mode: str, loop: str = "asyncio") -> None:
    """The leaks found are those announced, no more and no less."""
    found = run(name, mode, loop)

    assert sites(found) == expected(name, mode, loop)
    assert found["seconds"] < 3
    assert len(found["text"].splitlines()) <= 25
    if name.startswith("b07"):
        count = "6 x " if mode == "repeat" else ""
        (note,) = found["notes"]
        assert note.startswith(f"{count}poll swallowed its cancellation in poll (tests/microbugs/")
        assert note.endswith("; it was given up")


def test_microbugs_are_all_there() -> None:
    """Ten bugs, five extra ones, three programs without."""
    kinds = [name[0] for name in PROGRAMS]

    assert (kinds.count("b"), kinds.count("n"), kinds.count("x")) == (10, 3, 5)
    assert [bool(expected(name, "repeat")) for name in PROGRAMS] == [k != "n" for k in kinds]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(WAITING) else [])
        for name in PROGRAMS
    ],
)
def test_microbug_repeated(name: str) -> None:
    """`no_leaks(repeat=6)` names kind and line of each leak, and nothing else."""
    check(name, "repeat")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_microbug_once(name: str) -> None:
    """One run finds every kind that does not need growth."""
    check(name, "once")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_microbug_on_uvloop(name: str) -> None:
    """The same table on uvloop."""
    check(name, "repeat", "uvloop")
