"""``muxleak replay`` and the line it takes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from creation_sites import shown
from muxleak_scenarios.cli import cli
from muxleak_scenarios.pairs.replay import SequenceReplay
from muxleak_vless import context, session
from muxleak_vless.versions import VERSIONS

LINE = "watcher_outlives_connection/buggy a:open a:close"


def invoke(*words: str) -> Result:
    """Run the program in this process, at 80 columns."""
    return CliRunner().invoke(cli, words, env={"COLUMNS": "80"})


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((LINE,), 1),
        (tuple(LINE.split()), 1),
        (("watcher_outlives_connection a:open a:close",), 1),
        (("--variant", "fixed", LINE), 0),
        (("watcher_outlives_connection/fixed a:open a:close",), 0),
        (("--variant", "buggy", "watcher_outlives_connection/fixed a:open a:close"), 1),
        (("V1", "a:open", "a:close"), 1),
        (("v1 a:open a:close",), 1),
        (("p-a a:open a:close",), 0),
        (("reference a:open a:new:1:echo+5 a:close",), 0),
        (("new_after_cleanup", "a:open", "cancel~0", "a:new:1:echo", "a:close"), 1),
    ],
)
def test_replay_exits_with_1_on_a_violation_only(words: tuple[str, ...], code: int) -> None:
    """Quoted or in words, by pair or by version, with the variant overridden or not."""
    assert invoke("replay", *words).exit_code == code


def test_replay_says_what_is_violated_and_what_is_left() -> None:
    """The property with its meaning, the connection, and the leaked task with its sites."""
    text = invoke("replay", LINE).stdout

    assert "violated: tasks: after every close, the tasks of the connection are gone" in text
    assert "connection a: expected 0 alive after its close, got 1" in text
    assert "1 x MuxSession._watch" in text
    assert f"made at   {shown(session)}:" in text
    assert f"Context.wait ({shown(context)}:" in text


def test_replay_says_what_was_clean() -> None:
    """A run that breaks nothing says over how many connections."""
    text = invoke("replay", "fixed a:open a:close b:open").stdout

    assert text == "clean: 2 connections, every property held\n"


def test_replay_json_has_every_run() -> None:
    """The data are the canonical line, the target and the outcome."""
    data = json.loads(invoke("replay", "v1 a:open a:close", "--json").stdout)

    assert data["clean"] is False
    assert [(each["line"], each["target"]) for each in data["runs"]] == [
        ("V1 a:open a:close", "simulated")
    ]
    assert data["runs"][0]["violated"] == ["tasks"]
    assert data["runs"][0]["tasks_left"] == 1


def test_replay_runs_a_file_of_lines(tmp_path: Path) -> None:
    """Comments and empty lines are skipped; one violation is enough for exit code 1."""
    file = tmp_path / "found.txt"
    file.write_text("# found\n\nfixed a:open a:close # clean\nV1 a:open a:close\n")
    result = invoke("replay", str(file), "--json")

    assert result.exit_code == 1
    assert [run["violated"] for run in json.loads(result.stdout)["runs"]] == [[], ["tasks"]]
    file.write_text("fixed a:open a:close\n")
    assert invoke("replay", str(file)).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nobody a:open",), "expected a pair (watcher_outlives_connection,"),
        (("live_id_reusd a:open",), "did you mean 'live_id_reused'?"),
        (("live_id_reused/bugy a:open",), "expected /buggy or /fixed after the pair; got 'bugy'"),
        (
            ("watcher_outlives_connection/wrong a:open",),
            "/wrong_deferred_cancel or /wrong_no_watcher after the pair; got 'wrong'",
        ),
        (("V1/buggy a:open",), "expected no variant, since a version has none"),
        (("V1", "--variant", "fixed", "a:open"), "expected no variant, since a version has none"),
        (("live_id_reused",), "expected steps after 'live_id_reused', such as a:open"),
        (("V1",), "expected steps after 'V1'; got none"),
        (("V1 a:opn",), "step 'a:opn': expected one of"),
        (("V1 a:open a:new:1:ecko",), "got 'ecko'"),
        (("V1 b:close",), "connection 'b' was not opened before"),
        (("no.sim.json",), "expected a file, got 'no.sim.json', and there is none"),
        (("no.sim.json", "a:b"), "expected a file, got 'no.sim.json', and there is none"),
        (("my no.seq",), "expected a file, got 'my no.seq', and there is none"),
        (("no/such",), "expected a file, got 'no/such', and there is none"),
        (("/",), "expected a file, got '/', which is a folder"),
        (("live_id_reused/buggy",), "expected steps after 'live_id_reused/buggy'"),
        (("live_id_reusd/buggy a:open",), "did you mean 'live_id_reused'?"),
    ],
)
def test_replay_tells_what_is_wrong_with_a_line(words: tuple[str, ...], message: str) -> None:
    """A line that cannot be run is bad usage, with the word at fault and what was expected."""
    result = invoke("replay", *words)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


def test_replay_tells_where_a_file_is_wrong(tmp_path: Path) -> None:
    """Messages about a file name it and the line."""
    file = tmp_path / "found.txt"
    file.write_text("V1 a:open\nV1 a:opn\n")
    wrong = invoke("replay", str(file))
    file.write_text("# nothing\n")
    empty = invoke("replay", str(file))

    assert (wrong.exit_code, empty.exit_code) == (2, 2)
    assert f"{file}:2: step 'a:opn'" in wrong.stderr
    assert "expected lines to replay, got none" in empty.stderr


@pytest.mark.slow
def test_replay_over_tcp_sees_the_same() -> None:
    """The line gives the same verdict on real sockets."""
    assert invoke("replay", "--target", "tcp", LINE).exit_code == 1
    assert invoke("replay", "--target", "tcp", "--variant", "fixed", LINE).exit_code == 0


@pytest.mark.parametrize("name", [*VERSIONS, "cleanup_runs_twice/fixed", "live_id_reused/buggy"])
def test_replay_line_is_read_back_as_printed(name: str) -> None:
    """Parsing and printing are inverse."""
    line = f"{name} a:open a:new:1:echo+5~0 cancel a:close"

    assert str(SequenceReplay.parse(line)) == line


def test_replay_takes_the_beginning_of_a_pair_and_aliases() -> None:
    """The line that is printed and the JSON name the pair in full."""
    result = invoke("replay", "watcher/buggy", "a:open", "a:close", "--json")
    alias = invoke("replay", "#2421/fixed a:open a:close", "--json")

    assert (result.exit_code, alias.exit_code) == (1, 0)
    (run,) = json.loads(result.stdout)["runs"]
    assert run["line"] == "watcher_outlives_connection/buggy a:open a:close"
    (run,) = json.loads(alias.stdout)["runs"]
    assert run["line"] == "watcher_outlives_connection/fixed a:open a:close"


@pytest.mark.parametrize("line", ["w/buggy a:open a:close", "w/buggy", "w a:open"])
def test_replay_lists_the_pairs_that_a_word_begins(line: str) -> None:
    """Instead of looking for a file of that name."""
    result = invoke("replay", line)

    assert result.exit_code == 2
    assert "which begins watcher_outlives_connection and write_without_limit" in " ".join(
        result.stderr.split()
    )


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("REF " + "a:open a:close " * 2_000, id="thousands of steps"),
        pytest.param("REF a:open\na:close\n", id="newline"),
        pytest.param(
            "REF a:open a:" + "keepalive a:" * 400 + "close", id="longer than a file name"
        ),
    ],
)
def test_replay_takes_a_line_that_is_no_path(line: str) -> None:
    """A line that is longer than any path, or has several lines, is not looked for as a file."""
    result = invoke("replay", line)

    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == 0
    assert result.stdout.startswith("clean: ")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x" * 300 + "/" + "y" * 5000, "expected a file, got 'xxx"),
        ("nobody " + "a:open a:close " * 2_000, "expected a pair ("),
        ("REF a:open\0 a:close", "expected"),
        ("a\0b", "expected a pair ("),
    ],
    ids=["path", "line", "NUL in a step", "NUL in a name"],
)
def test_replay_refuses_words_that_are_no_path_in_words(line: str, says: str) -> None:
    """Bad usage, and no error of the operating system."""
    result = invoke("replay", line)

    assert result.exit_code == 2
    assert says in result.stderr
