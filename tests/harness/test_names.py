"""The names that the package offers, and the modules that importing them loads."""

import subprocess
import sys

import pytest

import muxleak
from muxleak import search, sim


@pytest.mark.parametrize("name", muxleak.__all__)
def test_names_are_there(name: str) -> None:
    """Each is found where its module defines it, and stays as an attribute."""
    found = getattr(muxleak, name)

    assert found is vars(muxleak)[name]
    assert name in dir(muxleak)


def test_names_of_the_simulation_are_its_own() -> None:
    """`simulate` and `find_leaks` are about programs; `check_scope` examines a scope."""
    assert muxleak.simulate is sim.simulate
    assert muxleak.find_leaks is search.find_leaks
    assert muxleak.check_scope.__module__ == "muxleak.checks.scope_check"


def test_names_that_are_not_there_are_refused() -> None:
    """A missing name raises as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'find_leak'"):
        muxleak.find_leak  # noqa: B018 - asking is the test


def loaded(statement: str) -> list[str]:
    """Return the modules of the package that a fresh process has loaded after a statement."""
    code = f"import sys, muxleak; {statement}; print(*(n for n in sys.modules if 'muxleak' in n))"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_names_are_imported_when_asked_for() -> None:
    """The package itself loads none of its modules but the one that makes its names lazy."""
    assert set(loaded("pass")) == {"muxleak", "muxleak.lazy"}


@pytest.mark.parametrize("name", ["no_leaks", "measure_growth", "check_scope", "Ledger", "settle"])
def test_names_of_the_checks_load_no_room_above_them(name: str) -> None:
    """A check loads neither the simulator, the search, the monitor nor the plugin."""
    rooms = {module.split(".")[1] for module in loaded(f"muxleak.{name}") if "." in module}

    assert rooms <= {"lazy", "introspect", "ledger", "checks"}
