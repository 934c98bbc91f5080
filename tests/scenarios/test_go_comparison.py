"""The table of versions: Python leaves as many tasks as goroutines were measured in Go."""

from itertools import pairwise

import pytest

from muxleak_scenarios import TcpTarget, run_sequence
from muxleak_scenarios.pairs.go_comparison import ENDINGS, Ending, VersionRow, compare
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_vless.versions import VERSIONS


@pytest.fixture(scope="module")
def rows() -> list[VersionRow]:
    """The whole table."""
    return compare()


def test_go_comparison_is_equal_wherever_go_was_measured(rows: list[VersionRow]) -> None:
    """No cell contradicts its measurement."""
    measured = [row for row in rows if row.go is not None]

    assert [row for row in measured if not row.equal] == []
    assert len(measured) == sum(len(ending.go) for ending in ENDINGS)
    assert all(row.holds for row in rows)


def test_go_comparison_reference_leaves_nothing(rows: list[VersionRow]) -> None:
    """On every ending, whenever the tasks of a closed connection are counted."""
    assert [row for row in rows if row.version == "REF" and row.python] == []


def test_go_comparison_has_every_version_on_every_ending(rows: list[VersionRow]) -> None:
    """One row for each, in the order of the table."""
    cells = [(row.ending, row.version) for row in rows]

    assert cells == [(ending.name, version) for ending in ENDINGS for version in VERSIONS]
    assert len({ending.name for ending in ENDINGS}) == len(ENDINGS)


@pytest.mark.parametrize(
    ("version", "ending", "expected"),
    [
        ("V1", "peer EOF", 1),
        ("V2", "peer EOF", 0),
        ("V1", "cancel-New-close", 0),
        ("V2", "cancel-New-close", 1),
        ("P-C", "cancel-New-close", 1),
        *((version, "live id reuse", 1) for version in ("V1", "P-A", "P-B", "V2")),
        ("V1", "peer EOF, parent that cannot be cancelled", 0),
    ],
)
def test_go_comparison_has_the_known_cells(
    rows: list[VersionRow], version: str, ending: str, expected: int
) -> None:
    """The cells that the history of the bug is based on."""
    (row,) = (row for row in rows if (row.version, row.ending) == (version, ending))

    assert row.python == expected


@pytest.mark.parametrize("version", ["V0", "V1", "V2"])
@pytest.mark.parametrize("ending", [each for each in ENDINGS if "destination " in each.name[:12]])
def test_version_served_to_a_client_leaves_what_sing_box_leaves(
    version: str, ending: Ending
) -> None:
    """Over TCP, too: the layer above the session closes a stream that it cannot serve."""
    outcome = run_sequence(Sequence.parse(ending.sequence), VERSIONS[version](), TcpTarget)

    # The watcher of V1, which waits for the end of the server.
    assert outcome.left == (1 if version == "V1" else ending.go["V2"]) == (version == "V1")


def test_go_comparison_rows_can_fail() -> None:
    """A cell that differs from Go, or a reference that leaves something, does not hold."""
    cells = [
        VersionRow("V1", "peer EOF", "a:open a:close", "close", 2, 1),
        VersionRow("REF", "peer EOF", "a:open a:close", "close", 1, None),
        VersionRow("V1", "peer EOF", "a:open a:close", "close", 1, 1),
        VersionRow("V0", "peer EOF", "a:open a:close", "close", 5, None),
    ]

    assert [cell.holds for cell in cells] == [False, False, True, True]
    assert [cell.equal for cell in cells] == [False, None, True, None]
    assert cells[0].to_json() == {
        "version": "V1",
        "ending": "peer EOF",
        "sequence": "a:open a:close",
        "after": "close",
        "python": 2,
        "go": 1,
        "equal": False,
    }


def test_go_comparison_reports_its_progress() -> None:
    """Once for each row."""
    seen: list[int] = []
    compare(seen.append)

    assert all(after == before + 1 for before, after in pairwise(seen))
    assert len(seen) == len(ENDINGS) * len(VERSIONS)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
def test_go_comparison_sequences_are_notation(ending: object) -> None:
    """Each can be given to a replay as it is printed."""
    line = getattr(ending, "sequence", "")

    assert str(Sequence.parse(line)) == line
