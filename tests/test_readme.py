"""README says what is so: its output is the program's, its tables are complete."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import proxies
from muxleak import LeakError
from muxleak.sim import simulate
from muxleak_scenarios import PROPERTIES, load_pairs
from muxleak_scenarios.bench import ROWS
from muxleak_scenarios.cli import cli
from muxleak_scenarios.pairs.negative_controls import CONTROLS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OUTPUT = re.compile(r"<!-- output: (.+?) -->\n```text\n(.*?)```\n<!-- end of output -->", re.DOTALL)
REAL = " --real sing-box"


def readable(text: str) -> list[str]:
    """The lines, but for the one figure that depends on the release of Hypothesis."""
    return [
        re.sub(r"after \d+ connections?", "after N connections", line.rstrip())
        for line in text.splitlines()
    ]


def run(command: str) -> str:
    """What a command of ours prints on 80 columns, piped."""
    arguments = command.split()[1:]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "muxleak", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(*found, marks=[pytest.mark.interop] if found[0].endswith(REAL) else [])
        for found in OUTPUT.findall(README)
    ],
)
def test_readme_shows_what_the_command_prints(command: str, shown: str) -> None:
    """Each output in README is that of the command named above it, line by line."""
    if command.endswith(REAL):
        proxies.find("sing-box")
    assert readable(run(command)) == readable(shown)


def test_readme_has_output_to_compare() -> None:
    """The comparison above has something to compare."""
    shown = [command for command, _ in OUTPUT.findall(README)]
    assert shown == ["muxleak reproduce", f"muxleak reproduce{REAL}"]


def test_readme_lists_every_pair_with_what_catches_it() -> None:
    """The table of pairs names each pair and the properties that its buggy variant breaks."""
    table = README.partition("| pair | what goes wrong | caught by |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\w, ]+) \|$", table, re.MULTILINE))

    assert rows == {slug: ", ".join(pair.facts.fails) for slug, pair in load_pairs().items()}


def test_readme_lists_every_wrong_fix_with_what_catches_it() -> None:
    """The table of wrong fixes names them as replay lines do."""
    rows = dict(re.findall(r"^\| `(\w+/\w+)` \| .* \| ([\w, ]+) \|$", README, re.MULTILINE))

    assert rows == {
        f"{slug}/{wrong.name}": ", ".join(wrong.facts.fails)
        for slug, pair in load_pairs().items()
        for wrong in pair.wrong
    }


def test_readme_lists_every_control() -> None:
    """The table of what is no leak is that of the controls, word for word."""
    table = README.partition("| control | looks like a leak | why it is none |")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", table.partition("\n\n")[0], re.MULTILINE)

    assert rows == [(name, each.resembles, each.bound) for name, each in CONTROLS.items()]


def test_readme_lists_every_property() -> None:
    """The table of properties is the one that the runner checks."""
    table = README.partition("| property | holds when |")[2].partition("\n\n")[0]

    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE) == list(PROPERTIES)


def test_readme_lists_every_row_of_the_benchmark() -> None:
    """The table of costs has the command's rows and baselines, under the names it prints."""
    table = README.partition("| row | ours | beside it |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:]] for line in table.splitlines()[2:]]
    sources = "".join(
        path.read_text("utf-8")
        for path in (ROOT / "scenarios/muxleak_scenarios/bench").glob("*.py")
    )

    assert [row for row, *_ in cells if row] == list(ROWS)
    assert [beside for _, _, beside, *_ in cells if beside not in sources] == []


def test_readme_begins_with_two_commands() -> None:
    """The first block is the two commands that a newcomer runs, and CI too."""
    block = README.partition("```sh\n")[2].partition("```")[0].splitlines()

    assert [line.rpartition("/")[2] for line in block] == ["muxleak reproduce", "pytest"]


def test_readme_program_is_found_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds in the example what README shows, but for the run and the line."""
    shown = dict(re.findall(r"<!-- example: (.+?) -->\n```\w+\n(.*?)```", README, re.DOTALL))
    (tmp_path / "chat.py").write_text(shown["chat.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "chat", raising=False)
    command = "muxleak fuzz chat:main"
    done = CliRunner().invoke(cli, command.split()[1:], env={"COLUMNS": "80"})

    def alike(text: str) -> str:
        return re.sub(r"run \d+|sim1:\S+", "...", text)

    assert done.exit_code == 1
    assert alike(done.stdout) == alike(shown[command])
    again = CliRunner().invoke(cli, ["replay", "muxleak-chat-main.sim.json"])
    assert again.exit_code == 1


def test_readme_service_raises_its_alarm_as_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Three connections in ten seconds: what it logs, once, is the line below the example."""
    pattern = r"<!-- example: service.py -->\n```python\n(.*?)```.*?```text\n(.*?)```"
    ((code, shown),) = re.findall(pattern, README, re.DOTALL)
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(code, "service.py", "exec"), names)  # noqa: S102 - our own README

    async def main() -> None:
        service = asyncio.create_task(names["main"]())
        for _ in range(40):
            await asyncio.sleep(10)
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", 8000)
                writer.close()
                await writer.wait_closed()
        service.cancel()

    simulate(main, leaks=False)

    assert [record.getMessage() + "\n" for record in caplog.records] == [shown]


def test_readme_example_fails_as_shown() -> None:
    """The example raises the error that README shows below it, but for the line in asyncio."""
    code, shown = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)[0]

    with pytest.raises(LeakError) as caught:
        exec(compile(code, "example.py", "exec"), {})  # noqa: S102 - our own README

    raised = f"LeakError: {caught.value}\n"
    assert re.sub(r"locks.py:\d+", "", raised) == re.sub(r"locks.py:\d+", "", shown)
