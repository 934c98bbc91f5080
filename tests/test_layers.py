"""Imports run downwards only, between the packages and between the rooms of each."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from muxleak.introspect.syntax import parse

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "muxleak": ROOT / "harness" / "muxleak",
    "muxleak_vless": ROOT / "vless" / "muxleak_vless",
    "muxleak_scenarios": ROOT / "scenarios" / "muxleak_scenarios",
}
MAY_IMPORT = {
    "muxleak": {"muxleak"},
    "muxleak_vless": {"muxleak_vless"},
    "muxleak_scenarios": {"muxleak_scenarios", "muxleak_vless", "muxleak"},
}
ROOMS = {
    "muxleak": ("introspect", "ledger", "checks", "sim", "search", "server", ("plugin", "monitor")),
    "muxleak_scenarios": ("sequence", "targets", "pairs", "corpus", "hunt", "real", "bench", "cli"),
}
"""The rooms of a package, lowest first; those in one tuple stand beside each other."""
SANS_IO = ("errors", "address", "header", "frames", "packets")


def sources(package: str) -> list[Path]:
    """The Python files of a package."""
    return sorted(FOLDERS[package].rglob("*.py"))


def imports(tree: ast.AST, *, typing: bool = True) -> Iterator[str]:
    """The modules that a file imports, wherever it does; those for type checking only if asked."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and not typing and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(each) for line in node.body for each in ast.walk(line)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield node.module or ""


def forbidden(package: str, text: str) -> list[str]:
    """The packages of ours that a file imports and may not."""
    tops = {name.partition(".")[0] for name in imports(parse(text))}
    return sorted(tops & set(FOLDERS) - MAY_IMPORT[package])


@pytest.mark.parametrize("package", FOLDERS)
def test_layers_import_downwards_only(package: str) -> None:
    """No source file imports a package above its own."""
    found = {
        str(path): forbidden(package, path.read_text())
        for path in sources(package)
        if path != FOLDERS["muxleak"] / "__main__.py"
    }

    assert found
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("muxleak_vless", "import muxleak"),
        ("muxleak_vless", "from muxleak_scenarios.sequence.steps import Step"),
        ("muxleak", "from muxleak_vless import Context"),
        ("muxleak", "import muxleak_scenarios"),
    ],
)
def test_layers_check_fires_on_a_planted_import(package: str, line: str) -> None:
    """An import upwards, even inside a function, is found."""
    planted = f"def f():\n    {line}\n"

    assert forbidden(package, planted) != []


def rank(module: str) -> tuple[int, str]:
    """The height of a module's room, and its name; 0 for the package's own modules."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    for height, rooms in enumerate(ROOMS.get(package, ()), 1):
        if name == rooms or (name in rooms and isinstance(rooms, tuple)):
            return height, name
    return 0, ""


def upward(module: str, text: str) -> list[str]:
    """The modules of the same package, but of a higher or a neighbouring room, that one imports."""
    height, room = rank(module)
    own = [
        name
        for name in imports(parse(text))
        if name.split(".")[0] == module.split(".", maxsplit=1)[0]
    ]
    return [name for name in own if rank(name)[1] not in {"", room} and rank(name)[0] >= height]


@cache
def modules(package: str) -> dict[str, str]:
    """The source of each module of a package, by dotted name."""
    root = FOLDERS[package].parent
    found = {}
    for path in sources(package):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path.read_text()
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_downwards_only(package: str) -> None:
    """No module imports from a room above its own, for type checking neither.

    The package itself imports names of all rooms, lazily.
    """
    found = {name: upward(name, text) for name, text in modules(package).items() if name != package}

    assert {name for name in found if rank(name)[0]}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("muxleak.ledger.counters", "from muxleak.monitor.service import Monitor"),
        ("muxleak.checks.no_leaks", "import muxleak.sim.run"),
        ("muxleak.plugin.attribution", "from muxleak.monitor.service import Monitor"),
        ("muxleak_scenarios.pairs.verify", "from muxleak_scenarios.cli.render import MARKS"),
    ],
)
def test_rooms_check_fires_on_a_planted_import(module: str, line: str) -> None:
    """An import upwards, or sideways, is found even in a function."""
    assert upward(module, f"def f():\n    {line}\n") != []


def needed(module: str, text: str) -> set[str]:
    """The modules that one imports when it runs; of "from package import module", the module."""
    tree = parse(text)
    names = set(imports(tree, typing=False)) - {module}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in names:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            if parts & set(modules(module.partition(".")[0])):
                names |= parts
                names.discard(node.module)
    return names


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The modules that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for name in graph.get(ahead.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    ahead.append(name)
        return seen

    reach = {name: reached(name) for name in graph}
    found = {
        tuple(sorted(other for other in reach[name] if name in reach.get(other, ())))
        for name in graph
    }
    return sorted(circle for circle in found if circle)


@pytest.mark.parametrize("package", FOLDERS)
def test_modules_import_in_no_circle(package: str) -> None:
    """No module needs, by whatever detour, one that needs it; types may refer to each other."""
    found = modules(package)
    graph = {name: needed(name, text) & set(found) for name, text in found.items()}

    assert circles(graph) == []


def test_circles_are_found() -> None:
    """Two modules and three."""
    graph = {"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"a"}}

    assert circles(graph) == [("a", "b"), ("c", "d", "e")]


@pytest.mark.parametrize("module", SANS_IO)
def test_layers_keep_the_wire_free_of_io(module: str) -> None:
    """The wire modules import neither asyncio nor anything that performs I/O."""
    tree = parse((FOLDERS["muxleak_vless"] / f"{module}.py").read_text())

    assert not {"asyncio", "select", "ssl", "threading", "time"} & set(imports(tree))


SHRINKER = "muxleak.search.shrink"


def shrinkers(text: str) -> list[str]:
    """The functions of a file that shrink by themselves, not by the engine's shrinker."""
    own = []
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "shrink" in node.name:
            called = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            called |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            if not called & {"shrink", "shrinking", "simplify", "_simplify", "_follow"}:
                own.append(node.name)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "Phase.shrink":
            own.append("hypothesis")
    return own


def test_one_shrinker_serves_every_search() -> None:
    """Programs, servers, pairs and hunts shrink with `muxleak.search.shrink`."""
    found = {
        name: own
        for package in FOLDERS
        for name, text in modules(package).items()
        if name != SHRINKER and (own := shrinkers(text))
    }

    assert found == {}


FINDING = "muxleak.search.finding"
"""The module of the one type of finding."""
PARTS = {"outcome", "replay"}
"""Fields that make a finding of a class."""


def finding_types(text: str) -> list[str]:
    """The classes of a file that are findings: by their names, or by their fields."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            fields = {
                line.target.id
                for line in node.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            }
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            is_one = re.search(r"(Finding|Found)$", node.name) or fields >= PARTS
            if is_one or ("shrunk" in fields and "Outcome" not in bases) or "Finding" in bases:
                found.append(node.name)
    return found


def test_one_type_of_finding_serves_every_search() -> None:
    """What differs between the kinds of subjects is in their outcomes."""
    found = {
        name: types
        for package in FOLDERS
        for name, text in modules(package).items()
        if (types := finding_types(text))
    }

    assert found == {FINDING: ["Finding"]}


RENDERING = "muxleak_scenarios.cli.search_report"
"""The module that shows findings of programs, servers and sequences."""


def renderings(text: str) -> list[str]:
    """The keys and the phrases of a file that belong to a finding, as commands show it."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    keys = texts & {"raised_at", "beyond_stock_asyncio"}
    return sorted(keys | {each for each in texts if "so perhaps not the" in each})


def test_one_module_shows_findings() -> None:
    """All commands that search or replay show a finding by it; a hunt has measurements to show."""
    found = {
        name: own
        for package in FOLDERS
        for name, text in modules(package).items()
        if (own := renderings(text))
    }

    assert set(found) == {RENDERING}


def test_second_rendering_is_found() -> None:
    """By its keys or its words."""
    assert renderings('data = {"raised_at": place, "report": None}') != []
    assert renderings('print(f"{why}, so perhaps not the shortest")') != []


@pytest.mark.parametrize(
    "planted",
    [
        "class HuntFinding:\n    sequence: Sequence",
        "class Found(NamedTuple):\n    steps: list",
        "class Result:\n    outcome: Outcome\n    replay: Replay",
        "class Leak:\n    sequence: Sequence\n    shrunk: bool = True",
        "class Other(Finding[Outcome]):\n    more: int",
    ],
)
def test_second_type_of_finding_is_found(planted: str) -> None:
    """A class with the name or the fields of a finding is named."""
    assert finding_types(planted) != []


REPLAYS = "muxleak.sim.replay"
"""The one module that writes and reads replay files."""
READERS = {"muxleak_scenarios.hunt.findings", "muxleak_scenarios.hunt.stacks"}
"""Hunts read the details of their own findings, and the labels in a profile."""
MARKS = {"muxleak_replay", "muxleak_hunt", "sim1:"}
KEYS = {"trace", "verdict", "signature", "steps"}


def replay_writers(text: str) -> list[str]:
    """The marks of replays that a file writes or reads, and the keys that make a replay of data."""
    tree = ast.parse(text)
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    keys = [
        {key.value for key in node.keys if isinstance(key, ast.Constant)}
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
    ]
    writes = any({"line", "steps"} <= each and KEYS & (each - {"steps"}) for each in keys)
    reads = any(
        ast.unparse(node.func).endswith("from_json")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )
    return [*MARKS.intersection(texts), *["keys"] * writes, *["from_json"] * reads]


def test_one_module_writes_and_reads_replays() -> None:
    """All kinds of subjects have one form of replay file."""
    found = {
        name: own
        for package in FOLDERS
        for name, text in modules(package).items()
        if name not in {REPLAYS, *READERS} and (own := replay_writers(text))
    }

    assert found == {}
    assert set(replay_writers(modules("muxleak")[REPLAYS])) >= {*MARKS, "from_json"}
    assert not replay_writers(modules("muxleak_scenarios")["muxleak_scenarios.cli.fuzz_program"])


@pytest.mark.parametrize(
    "planted",
    [
        'def keep(run):\n    return json.dumps({"line": run.line, "steps": [], "trace": ""})',
        'def write(found):\n    return {"muxleak_hunt": 1, "findings": found}',
        "def load(path):\n    return files.from_json(read_text(path))",
        'def line(data):\n    return "sim1:" + data',
    ],
)
def test_second_replay_format_is_found(planted: str) -> None:
    """Data that look like a replay, the marks of one, and a reader of one are named."""
    assert replay_writers(planted) != []


@pytest.mark.parametrize(
    "planted",
    [
        "def shrink(x):\n    return x[1:]",
        "async def _shrink(x):\n    pass",
        "phases = [Phase.shrink]",
    ],
)
def test_second_shrinker_is_found(planted: str) -> None:
    """A function that shrinks by itself, or by Hypothesis, is named."""
    assert shrinkers(planted) != []
