"""The names that the package offers, and what it costs to import it."""

import subprocess
import sys

import pytest

import muxleak
from muxleak import search, sim


@pytest.mark.parametrize("name", muxleak.__all__)
def test_names_are_there(name: str) -> None:
    """Each leads to what its home defines, and is kept."""
    found = getattr(muxleak, name)

    assert found is vars(muxleak)[name]
    assert name in dir(muxleak)


def test_names_of_the_simulation_are_its_own() -> None:
    """`simulate` and `find_leaks` are about programs; a scope is looked at by `check_scope`."""
    assert muxleak.simulate is sim.simulate
    assert muxleak.find_leaks is search.find_leaks
    assert muxleak.check_scope.__module__ == "muxleak.checks.scope_check"


def test_names_that_are_not_there_are_refused() -> None:
    """As any module does."""
    with pytest.raises(AttributeError, match="no attribute 'find_leak'"):
        muxleak.find_leak  # noqa: B018 - asking is the test


def test_names_are_imported_when_asked_for() -> None:
    """Whoever imports the package does not wait for the simulation."""
    code = "import sys, muxleak; print([each for each in sys.modules if 'muxleak.sim' in each])"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
