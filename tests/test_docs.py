"""The documentation agrees with the program: its commands, outputs, examples, tables and links.

Every fenced block of README.md and docs/ falls in one class, by its language and by the HTML
comment above it:

========================================  ==========================================================
``<!-- output: CMD -->`` and ``text``     the output of a command of ours, run in the repository
``<!-- example: FILE -->``                the content of a file; written to the folder of the page
``<!-- run: CMD (exit N) -->``, ``text``  the output of a command that is run in that folder
``sh``                                    commands; their names, options and arguments are checked
``json``, ``toml``, ``yaml``              configuration; parsed, and names of ours are checked
``diff``, ``text``                        illustration; a ``python`` block without mark is refused
========================================  ==========================================================

A line ``[...]`` in an output stands for any number of lines. The files and commands of a page are
handled in their order, so a page can show a failure, a fix, and the same command again.
"""

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import proxies
from muxleak import Monitor, no_leaks
from muxleak.ledger.kinds import NOUNS
from muxleak.plugin import options
from muxleak.sim import Network, Settings, Simulation, old_names, simulate
from muxleak.sim.settings import FAULTS, OUTSIDE
from muxleak_scenarios import PROPERTIES, load_pairs
from muxleak_scenarios.bench import ROWS
from muxleak_scenarios.cli import cli
from muxleak_scenarios.pairs.negative_controls import CONTROLS
from muxleak_scenarios.sequence import steps
from muxleak_vless.versions import VERSIONS
from source_roots import PYTHONPATH

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
CONTENTS = DOCS / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
TEXT = {page: page.read_text("utf-8") for page in PAGES}
MOST_LINES = {README: 200}
"""Of a page; 250 for all others."""
REAL = " --real sing-box"
PRINTED = ("python", "pytest", "cat")
"""Programs whose output a page may show, beside `muxleak`."""
ILLUSTRATION = {"diff", "text"}
OTHERS = {"bash", "cat", "cd", "curl", "eval", "git", "jq", "mkdir", "python3", "source"}
"""Programs whose arguments are not ours to check."""
RETIRED = ("witness", "living id", "at rest", "blame", "known leaks", "ratchet", "court", "world")
"""Terms that have another name now; the glossary in docs/architecture.md has the new ones."""
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>\n]+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_EXIT = re.compile(r" \(exit (\d+)\)$")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


class Block(NamedTuple):
    """A fenced block; ``line`` is that of its first line in the page."""

    page: Path
    line: int
    mark: str
    language: str
    text: str

    @property
    def name(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def marked(self, kind: str) -> str:
        """Return what follows ``kind: `` in the mark, or nothing."""
        head, _, rest = self.mark.partition(": ")
        return rest if head == kind else ""


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = TEXT[page] if text is None else text
    return [
        Block(
            page,
            text.count("\n", 0, found.start("text")) + 1,
            found["mark"] or "",
            found["language"],
            found["text"],
        )
        for found in _BLOCK.finditer(text)
    ]


def all_blocks() -> Iterator[Block]:
    """Yield the blocks of all pages."""
    for page in PAGES:
        yield from blocks(page)


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _BLOCK.sub("", TEXT[page])


def alike(text: str) -> list[str]:
    """Return the lines without the figures that depend on a release, a machine or a run."""
    patterns = (
        (r"after \d+ connections?", "after N connections"),  # depends on Hypothesis
        (r"\b((?:asyncio|muxleak\w*)/[\w/]+\.py):\d+", r"\1"),  # depends on Python, or on edits
        (r"\bin [\d.]+s\b", "in N s"),
        (r"^(.* warnings?, )?(.*) in N s$", r"\2 in N s"),
        (r"in run \d+", "in run N"),
        (r"sim1:\S+", "sim1:..."),
        (r"^E +", "E "),  # pytest indents an error more if it shows a line of source above it
    )
    lines = []
    for line in text.splitlines():
        for pattern, replacement in patterns:
            line = re.sub(pattern, replacement, line)  # noqa: PLW2901 - one after the other
        lines.append(line.rstrip())
    return lines


def shows(shown: str, printed: str) -> str:
    """Compare; return what is shown and was not printed, or nothing.

    Each part between two lines ``[...]`` must have been printed in one piece, after the part before
    it; the first part at the beginning, and the last one at the end.
    """
    parts: list[list[str]] = [[]]
    for line in alike(shown):
        if line.strip() == "[...]":
            parts.append([])
        else:
            parts[-1].append(line)
    rest = alike(printed)
    if rest[: len(parts[0])] != parts[0]:
        return "\n".join(parts[0])
    if len(parts) == 1:
        return "" if rest == parts[0] else "\n".join(rest[len(parts[0]) :]) or "(more)"
    rest = rest[len(parts[0]) :]
    for part in parts[1:-1]:
        places = [at for at in range(len(rest)) if rest[at : at + len(part)] == part]
        if not places:
            return "\n".join(part)
        rest = rest[places[0] + len(part) :]
    last = parts[-1]
    return "" if not last or rest[-len(last) :] == last else "\n".join(last)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page, piped, on 80 columns."""
    program, *arguments = shlex.split(command)
    modules = {"muxleak": ["-m", "muxleak"], "pytest": ["-m", "pytest", "-p", "no:cacheprovider"]}
    words = ["cat"] if program == "cat" else [sys.executable, *modules.get(program, [])]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": PYTHONPATH}
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        environment.pop(name, None)
    return subprocess.run(  # noqa: S603 - our own program, with arguments of our own pages
        [*words, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # A traceback is what `python` is shown for; what others say on stderr is not shown.
        stderr=subprocess.STDOUT if program == "python" else subprocess.DEVNULL,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )


OUTPUTS = [block for block in all_blocks() if block.marked("output")]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            id=block.name,
            marks=[pytest.mark.interop] if block.mark.endswith(REAL) else [],
        )
        for block in OUTPUTS
    ],
)
def test_output_is_what_the_command_prints(block: Block) -> None:
    """Each output is that of the command named above it, line by line."""
    command = block.marked("output")
    if command.endswith(REAL):
        proxies.find("sing-box")
    done = run(command, ROOT)
    assert done.returncode == 0
    assert shows(block.text, done.stdout) == "", done.stdout


def test_there_is_output_to_compare() -> None:
    """The comparison above has something to compare, and in README at first sight."""
    assert OUTPUTS[0].page == README
    assert {block.marked("output") for block in OUTPUTS} >= {
        "muxleak reproduce",
        f"muxleak reproduce{REAL}",
        "muxleak self versions",
    }


RUNNING = [page for page in PAGES if any(block.marked("run") for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_examples_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """A page's files are written and its commands run, in order; each prints what is shown."""
    for block in blocks(page):
        if name := block.marked("example"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif command := block.marked("run"):
            code = _EXIT.search(command)
            done = run(_EXIT.sub("", command), tmp_path)
            printed = done.stdout.replace(f"{tmp_path}/", "")
            assert shows(block.text, printed) == "", f"{block.name}:\n{printed}"
            assert done.returncode == (int(code[1]) if code else 0), block.name


def test_running_pages_are_those_for_programs() -> None:
    """The pages whose purpose is an example have one that is run."""
    names = {"README.md", "testing.md", "fuzzing.md", "chat-server.md", "sequences.md"}
    assert {page.name for page in RUNNING} >= names


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.name)
        for block in all_blocks()
        if block.marked("example").endswith(".py")
    ],
)
def test_example_imports_what_exists(block: Block) -> None:
    """Each example compiles, and everything that it imports from us is there."""
    code = compile(block.text, block.marked("example"), "exec")
    names = re.findall(r"^from (muxleak[\w.]*) import (.+)$", block.text, re.MULTILINE)
    for module, found in names:
        for name in found.split(", "):
            assert hasattr(importlib.import_module(module), name.split(" ")[0]), (module, name)
    assert code.co_code


@pytest.mark.parametrize("block", [pytest.param(each, id=each.name) for each in all_blocks()])
def test_block_has_a_class(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is of a class, and what can be checked without running it is right."""
    monkeypatch.chdir(tmp_path)
    if block.mark:
        check_marked(block)
    else:
        check_unmarked(block)


def check_marked(block: Block) -> None:
    """Refuse a mark that no test reads, and a command that does not exist."""
    kind = block.mark.partition(":")[0]
    assert kind in {"output", "example", "run"}, block.mark
    if kind == "example":
        return
    assert block.language == "text"
    command = _EXIT.sub("", block.marked(kind))
    assert command.split()[0] in ({"muxleak"} if kind == "output" else {"muxleak", *PRINTED})
    check_command(command)


def check_unmarked(block: Block) -> None:
    """Check a block by its language; refuse one that would have to be run."""
    match block.language:
        case "sh":
            for line in commands_of(block.text):
                check_command(line)
        case "json":
            json.loads(block.text)
        case "toml":
            check_toml(tomllib.loads(block.text))
        case "yaml":
            runs = re.findall(r"^\s*(?:- )?run: (.+)$", block.text, re.MULTILINE)
            assert runs
            for line in runs:
                check_command(line)
        case language:
            assert language in ILLUSTRATION


def commands_of(text: str) -> list[str]:
    """Return the commands of a block: lines without comments, continued ones joined."""
    joined = text.replace("\\\n", " ")
    found = [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def check_command(line: str) -> None:
    """Refuse a command that does not exist, or that does not take these arguments."""
    for part in re.split(r"\s+(?:&&|\|)\s+", line.removesuffix(" &")):
        check_words(shlex.split(part))


def check_words(words: list[str]) -> None:
    """Check one command, without its redirections and variables."""
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        del words[0]
    words = words[: words.index(">")] if ">" in words else words
    words = [each for each in words if not each.startswith("$(")]
    program = words[0].rpartition("/")[2] if words else ""
    if program == "muxleak":
        check_muxleak(words[1:])
    elif program == "pytest":
        known = _OPTION.findall(pytest_help())
        assert set(_OPTION.findall(" ".join(words))) <= set(known), words
    elif program == "pip":
        extras = set(re.findall(r"\[([\w,]+)\]", " ".join(words)))
        assert {each for found in extras for each in found.split(",")} <= extras_there_are()
    elif program == "uv":
        assert set(re.findall(r"--extra (\w+)", " ".join(words))) <= extras_there_are()
    elif program == "python":
        scripts = [each for each in words[1:] if each.endswith(".py")]
        assert all((ROOT / each).is_file() or "/" not in each for each in scripts), words
    else:
        assert program in OTHERS, words


def commands() -> dict[str, click.Command]:
    """Return the commands that are no groups, under their names with those of their groups."""
    found: dict[str, click.Command] = {}
    groups: list[tuple[str, click.Group]] = [("", cli)]
    for prefix, group in groups:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                groups.append((f"{prefix}{name} ", command))
            elif command is not None:
                found[f"{prefix}{name}"] = command
    return found


def command_of(words: list[str]) -> click.Command | None:
    """Return the command that words begin with, the program itself for COMMAND and options."""
    names = [" ".join(words[:size]) for size in (1, 2)]
    group = cli.get_command(click.Context(cli), words[0])
    own = cli if words[0] == "COMMAND" or words[0].startswith("-") else None
    found = next((commands()[name] for name in names if name in commands()), own)
    return group if found is None and len(words) == 1 else found


def check_muxleak(words: list[str]) -> None:
    """Refuse arguments that the command line refuses; nothing is run."""
    for word in words:
        # A file that a page names is there when its reader comes to it.
        if re.fullmatch(r"[\w./-]+\.(json|seq|txt)", word) and not Path(word).exists():
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).write_text("", "utf-8")
    if not words or words[0].startswith("-"):
        return
    command = command_of(words)
    assert command is not None, words
    size = next(size for size in (1, 2) if " ".join(words[:size]) in commands())
    command.make_context(command.name, words[size:], parent=click.Context(cli))


@cache
def pytest_help() -> str:
    """Return all options and ini values of pytest, ours among them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


@cache
def extras_there_are() -> set[str]:
    """Return the extras that can be installed."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return set(project["project"]["optional-dependencies"])


def plugin_names() -> tuple[set[str], set[str]]:
    """Return the plugin's options and ini values, as it declares them."""
    source = Path(options.__file__).read_text("utf-8")
    declared = set(re.findall(r'"(--leaks[\w-]*)"', source))
    return declared, set(re.findall(r'addini\(\s*"(\w+)"', source))


def check_toml(content: dict[str, Any]) -> None:
    """Check the settings of pytest in a pyproject.toml."""
    settings = content.get("tool", {}).get("pytest", {}).get("ini_options")
    if settings is not None:
        check_ini(set(settings))
        assert _OPTION.findall(str(settings.get("addopts", ""))) <= _OPTION.findall(pytest_help())


def check_ini(names: set[str]) -> None:
    """Check that ini values of ours exist."""
    assert {each for each in names if each.startswith("leaks")} <= plugin_names()[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_inline_code_names_what_exists(page: Path) -> None:
    """Commands, options, modules and paths in running text exist."""
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))
    historic = page.name == "CHANGELOG.md"
    for span in spans if not historic else ():
        if span.startswith("muxleak "):
            command = command_of(span.split()[1:])
            assert command is not None, span
            declared = {name for param in command.params for name in param.opts}
            assert set(_OPTION.findall(span)) <= {*declared, "--help"}, span
        elif span.startswith(("pytest ", "--leaks")):
            assert set(_OPTION.findall(span)) <= set(_OPTION.findall(pytest_help())), span
        elif re.fullmatch(r"muxleak(_vless|_scenarios)?(\.\w+)+(\(.*\))?", span):
            assert resolves(span.partition("(")[0]), span
        elif re.fullmatch(r"(\.ci|docs|harness|vless|scenarios|tests)/[\w./-]*", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"[a-z]+/\w+\.py", span):
            # Of a room, as the page on the architecture names files.
            assert any(ROOT.glob(f"*/muxleak*/{span}")), span


def resolves(dotted: str) -> bool:
    """Whether a dotted name is that of a module, or of something in one."""
    names = dotted.split(".")
    for size in range(len(names), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(names[:size]))
        except ModuleNotFoundError:
            continue
        for name in names[size:]:
            if not hasattr(found, name):
                return name in getattr(found, "__annotations__", {})
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_short_and_says_what_it_is_for(page: Path) -> None:
    """A page has one title, begins with a paragraph, and is not longer than allowed."""
    lines = TEXT[page].splitlines()
    assert len(lines) <= MOST_LINES.get(page, 250)
    assert [line for line in prose(page).splitlines() if line.startswith("# ")] == lines[:1]
    assert lines[1] == ""
    assert re.match(r"[A-Z`*]", lines[2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_uses_plain_words(page: Path) -> None:
    """A page has one name for one thing, and few indirect questions."""
    text = re.sub(r"`[^`\n]+`", "", prose(page)).lower()
    words = re.findall(r"[a-z']+", text)

    assert words.count("what") <= max(1, 2 * len(words) / 1000)
    assert [term for term in RETIRED if re.search(rf"\b{term}\b", text)] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, made of its headings as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", each.lower()) for each in found)
    return {each.strip().replace(" ", "-") for each in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is to a file, every anchor to a heading, every name is defined."""
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    for link in [*links, *defined.values()]:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link
    used = set(re.findall(r"\]\[([^\]]+)\]", text))
    assert used <= set(defined), used - set(defined)


def test_every_page_is_linked_from_the_table_of_contents() -> None:
    """No page is left alone."""
    links = set(re.findall(r"\]\((\w[\w-]*\.md)\)", TEXT[CONTENTS]))
    assert links == {page.name for page in PAGES if page.parent == DOCS} - {CONTENTS.name}


def in_code(name: str, text: str) -> bool:
    """Whether inline code of a page has a name, as a word."""
    word = rf"(?<![\w@-]){re.escape(name)}(?![\w-])"
    return any(re.search(word, span) for span in re.findall(r"`([^`\n]+)`", text))


def rows(page: str, head: str) -> list[list[str]]:
    """Return the cells of the table with this head."""
    before, found, after = TEXT[DOCS / page].partition(head + "\n")
    assert found, f"{page} has no table {head!r}"
    del before
    lines = after.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_pair_is_listed_with_what_catches_it() -> None:
    """The table of pairs names each pair and the properties that its buggy variant breaks."""
    listed = {name.strip("`"): caught for name, _, caught in rows("pairs.md", PAIRS)}

    assert listed == {slug: ", ".join(pair.facts.fails) for slug, pair in load_pairs().items()}


PAIRS = "| pair | mistake | caught by |"


def test_every_wrong_fix_is_listed_with_what_catches_it() -> None:
    """The table of wrong fixes names them as replay lines do."""
    table = rows("bug.md", "| wrong fix | mistake | caught by |")

    assert {name.strip("`"): caught for name, _, caught in table} == {
        f"{slug}/{wrong.name}": ", ".join(wrong.facts.fails)
        for slug, pair in load_pairs().items()
        for wrong in pair.wrong
    }


def test_every_version_is_listed() -> None:
    """The table of versions has each one, in order."""
    table = rows("bug.md", "| version | commit | state |")

    assert [name.strip("`") for name, *_ in table] == [name for name in VERSIONS if name != "fixed"]


def test_every_control_is_listed() -> None:
    """The table of negative controls is that of the code, word for word."""
    table = rows("pairs.md", "| control | looks like a leak | why it is none |")

    assert [(name.strip("`"), looks, bound) for name, looks, bound in table] == [
        (name, each.resembles, each.bound) for name, each in CONTROLS.items()
    ]


def test_every_property_is_listed() -> None:
    """The table of properties is the one that the runner checks."""
    assert [name for name, _ in rows("sequences.md", "| property | holds when |")] == [*PROPERTIES]


def test_every_row_of_the_benchmark_is_listed() -> None:
    """The table of costs has the command's rows and baselines, under the names it prints."""
    table = rows("benchmarks.md", "| row | ours | beside it | ours costs, 3.11 | 3.13 | goal |")
    sources = "".join(
        path.read_text("utf-8")
        for path in (ROOT / "scenarios/muxleak_scenarios/bench").glob("*.py")
    )

    assert [row for row, *_ in table if row] == [*ROWS]
    assert [beside for _, _, beside, *_ in table if f'"{beside}"' not in sources] == []


def test_every_step_is_described() -> None:
    """The vocabulary of sequences has each verb, handler, destination, header and frame."""
    text = TEXT[DOCS / "sequences.md"]
    verbs = {*steps.PLAIN, *steps.ENDINGS, *steps.ON_STREAM, *steps.OPENING, *steps.OPERATOR}
    whats = {*steps.HANDLERS, *steps.DESTINATIONS, *steps.BAD_HEADERS, *steps.JUNK}
    words = {*verbs, "bad", "junk", "cut", *whats}

    assert {each for each in words if not in_code(each, text)} == set()


def test_every_command_is_listed() -> None:
    """The table of commands has each one, those of groups too, and no other."""
    cells = [cell for cell, _ in rows("command-line.md", "| command | purpose |")]
    named = {
        name for cell in cells for name in commands() if re.search(rf"`muxleak {name}\b", cell)
    }

    assert named == set(commands())
    assert all(any(re.search(rf"`muxleak {name}\b", cell) for name in named) for cell in cells)


@pytest.mark.slow
def test_completion_works_as_shown(tmp_path: Path) -> None:
    """The line for bash, run by bash, completes commands, pairs and values of options."""
    page = TEXT[DOCS / "command-line.md"]
    line = 'eval "$(_MUXLEAK_COMPLETE=bash_source muxleak)"'
    assert line in page
    script = tmp_path / "muxleak"
    # Completion goes by the name of the program, which `python -m muxleak` does not have.
    start = "import sys; sys.argv[0] = 'muxleak'; from muxleak_scenarios.cli import main; main()"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{start}" "$@"\n')
    script.chmod(0o755)
    tries = "".join(
        f"COMP_WORDS=({words}); COMP_CWORD={words.count(' ')}; COMPREPLY=(); "
        f'_muxleak_completion muxleak; echo "${{COMPREPLY[@]}}"\n'
        for words in ("muxleak ver", "muxleak show live", 'muxleak fuzz --target ""')
    )
    done = subprocess.run(  # noqa: S603 - the line of our own page
        ["bash", "-c", f"{line}\n{tries}"],  # noqa: S607 - as a reader's shell
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": PYTHONPATH,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if "bash version" in done.stderr.lower():
        pytest.skip("needs bash 4.4 or newer")
    assert done.stdout.splitlines() == ["verify", "live_id_reused", "simulated tcp uvloop"]


def test_every_extra_is_described() -> None:
    """The table of extras has each one that a user may want, and the others for contributors."""
    table = rows("command-line.md", "| extra | needed for |")
    listed = {name.strip("`") for name, _ in table}

    assert {f"muxleak[{extra}]" for extra in extras_there_are()} >= listed
    for extra in extras_there_are():
        everywhere = "".join(TEXT[page] for page in PAGES)
        assert f"muxleak[{extra}]" in everywhere or f".[{extra}]" in everywhere, extra


def first_cells(page: str, head: str) -> list[str]:
    """Return the first cells of a table, without their marks for code."""
    return [name.strip("`") for name, *_ in rows(page, head)]


def defaults(page: str, head: str) -> dict[str, object]:
    """Return the names and default values of a table; those that are no literals as text."""
    found: dict[str, object] = {}
    for name, default, _ in rows(page, head):
        try:
            found[name.strip("`")] = ast.literal_eval(default.strip("`"))
        except (SyntaxError, ValueError):
            found[name.strip("`")] = default
    return found


def check_defaults(shown: dict[str, object], real: dict[str, object]) -> None:
    """Compare names in their order, and values as far as a page can show them."""
    assert list(shown) == list(real)
    for name, value in shown.items():
        assert isinstance(value, str) or value == real[name], name


def test_every_option_of_no_leaks_is_described() -> None:
    """The table has the options of the function, the one for kinds all kinds."""
    names = inspect.signature(no_leaks).parameters
    wanted = [f"{name}=" for name in names if name not in {"function", "unknown"}]

    assert first_cells("testing.md", "| option | meaning |") == wanted
    assert first_cells("kinds.md", "| kind | object |") == list(NOUNS)


def test_every_setting_of_the_plugin_is_described() -> None:
    """The page on testing has each option, ini value, marker and mode."""
    text = TEXT[DOCS / "testing.md"]
    declared, values = plugin_names()
    wanted = {*declared, *values, *options.MARKS, *options.MODES}

    assert {each for each in wanted if not in_code(each, text)} == set()


def test_every_setting_of_a_simulation_is_described() -> None:
    """The page on fuzzing has each setting with its default, each kind, fault and method."""
    text = TEXT[DOCS / "fuzzing.md"]
    for kind, head in ((Settings, "setting"), (Network, "attribute")):
        values = {name: getattr(kind(), name) for name in kind.__dataclass_fields__}
        check_defaults(defaults("fuzzing.md", f"| {head} | default | meaning |"), values)

    assert first_cells("fuzzing.md", "| fault | affects | effect |") == list(FAULTS)
    wanted = {*OUTSIDE, *Settings().kinds}
    assert {each for each in wanted if not in_code(each, text)} == set()

    members = {name.partition("(")[0] for name in first_cells("fuzzing.md", "| member | purpose |")}
    methods = {name for name in vars(Simulation) if not name.startswith("_")}
    assert members == {*methods, "choices", "ledger", "steps"} - {"closed", "drawn"}


def test_every_argument_of_the_monitor_is_described() -> None:
    """The table has the arguments with their defaults."""
    real = {name: each.default for name, each in inspect.signature(Monitor).parameters.items()}

    check_defaults(defaults("operating.md", "| argument | default | meaning |"), real)


def test_every_room_is_described() -> None:
    """The tables of the architecture have the rooms in the order that imports must keep."""
    source = (ROOT / "tests" / "test_layers.py").read_text("utf-8")
    found = re.search(r"^ROOMS = (\{.*?^\})", source, re.MULTILINE | re.DOTALL)
    assert found
    parts = re.split(r"^Rooms of `(\w+)`", TEXT[DOCS / "architecture.md"], flags=re.MULTILINE)
    for package, text in zip(parts[1::2], parts[2::2], strict=True):
        table = text.partition("| room | holds |\n")[2].partition("\n\n")[0]
        shown = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()))
        wanted = ast.literal_eval(found[1])[package]
        assert shown == [
            name for room in wanted for name in ([room] if isinstance(room, str) else room)
        ]
    assert parts[1::2] == list(ast.literal_eval(found[1]))


def test_changelog_has_the_names_that_replaced_others() -> None:
    """The table of import names is that of the code, and each new name can be imported."""
    before, _, after = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("| old | new |\n")
    lines = after.partition("\n\n")[0].splitlines()[1:]
    listed = dict(re.findall(r"`([\w.]+)`", line) for line in lines)

    assert "**Import names.**" in before
    assert listed == {old: old_names.new_name(old) for old in listed}
    assert set(listed) >= old_names.PACKAGES
    assert [name for name in listed.values() if not resolves(name)] == []


def test_readme_begins_with_two_commands() -> None:
    """The first block is the two commands that a newcomer runs, and CI too."""
    first = next(block for block in blocks(README) if block.language == "sh")

    assert [line.rpartition("/")[2] for line in first.text.splitlines()] == [
        "muxleak reproduce",
        "pytest",
    ]


def test_service_raises_its_alarm_as_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Three connections in ten seconds: what it logs, once, is the line below the example."""
    found = blocks(DOCS / "operating.md")
    at = next(at for at, block in enumerate(found) if block.marked("example") == "service.py")
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(found[at].text, "service.py", "exec"), names)  # noqa: S102 - our own page

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

    assert [record.getMessage() + "\n" for record in caplog.records] == [found[at + 1].text]


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.timeout(300)
def test_hunt_prints_the_finding_that_the_page_shows(tmp_path: Path) -> None:
    """The server of the page leaks the goroutines that the page explains."""
    found = blocks(DOCS / "hunting.md")
    program = proxies.find("sing-box")
    config = next(block.text for block in found if block.language == "json")
    (tmp_path / "server.json").write_text(config, "utf-8")
    shown = next(block.text for block in found if "blocked in" in block.text)
    steps = [line.split()[0] for line in shown.splitlines() if line.startswith("  a:")]
    lines = [each for block in found if block.language == "sh" for each in commands_of(block.text)]
    line = next(each for each in lines if "sing-box run" in each)
    command = line.replace("sing-box run", f"{shlex.quote(program.command[0])} run")
    done = run(f"{command} --replay {shlex.quote(' '.join(steps))}", tmp_path)

    assert done.returncode == 1
    rows = shown[shown.index("  each") : shown.index("  memory")]
    assert rows in done.stdout


def test_comparison_of_outputs_fails_where_it_should() -> None:
    """What was not printed, or not in this order, or not at the end that is shown, is refused."""
    printed = "a\nb\nc\nd\n"
    for shown in ("a\nb\nc\nd\n", "[...]\nb\n[...]\n", "a\n[...]\nd\n", "[...]\nb\n[...]\nd\n"):
        assert shows(shown, printed) == ""
    swapped = "[...]\nc\n[...]\nb\n[...]\n"
    for shown in ("a\nb\n", "b\n[...]\n", swapped, "[...]\nc\n", "x\n[...]\n"):
        assert shows(shown, printed) != ""
