"""A function is called once a module is imported, and the import system is as it was before."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from muxleak.checks.late_import import LateImport

NAME = "muxleak_late_import_subject"


@pytest.fixture(autouse=True)
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that can be imported and is not."""
    (tmp_path / f"{NAME}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture
def seen() -> list[ModuleType]:
    """The modules that the function was called with."""
    return []


def test_late_import_calls_at_the_end_of_the_import(seen: list[ModuleType]) -> None:
    """Once, with the whole module; a second import finds nothing left of it."""
    before = [*sys.meta_path]
    late = LateImport({NAME: lambda module: seen.append(module) if module.VALUE else None})
    late.start()
    assert seen == []

    module = importlib.import_module(NAME)
    assert seen == [module]
    late.stop()
    assert sys.meta_path == before
    assert module.__spec__ is not None
    assert "exec_module" not in vars(module.__spec__.loader)
    del sys.modules[NAME]
    importlib.import_module(NAME)
    assert seen == [module]


def test_late_import_calls_now_if_the_module_is_there(seen: list[ModuleType]) -> None:
    """Nothing waits then."""
    before = [*sys.meta_path]
    module = importlib.import_module(NAME)
    LateImport({NAME: seen.append}).start()
    assert seen == [module]
    assert sys.meta_path == before


def test_late_import_can_be_stopped(seen: list[ModuleType]) -> None:
    """Before the import and after it."""
    late = LateImport({NAME: seen.append})
    late.start()
    late.stop()
    importlib.import_module(NAME)
    late.stop()
    assert seen == []


def test_late_import_leaves_a_failed_import_alone(seen: list[ModuleType], tmp_path: Path) -> None:
    """The error is the module's own, or the usual one where there is no module."""
    (tmp_path / f"{NAME}_broken.py").write_text("raise LookupError('its own')\n")
    for name, error in ((f"{NAME}_broken", LookupError), (f"{NAME}_missing", ModuleNotFoundError)):
        late = LateImport({name: seen.append})
        late.start()
        with pytest.raises(error):
            importlib.import_module(name)
        late.stop()
        assert late not in sys.meta_path
    assert seen == []
