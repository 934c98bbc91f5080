"""The plugin beside plugins of other projects, each pinned and in an environment of its own.

For each, one test that leaks and one that does not, in four runs: without the plugin, and in each
mode. The table in docs/other-plugins.md says the same.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import installed

PAGE = installed.ROOT / "docs" / "other-plugins.md"
# Counts what pytest reports, in the process that sums up.
RECORDER = """
import json
import pathlib

SEEN = []

def pytest_runtest_logreport(report):
    SEEN.append([report.nodeid.rpartition("::")[2], report.when, report.outcome])

def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        pathlib.Path("seen.json").write_text(json.dumps(sorted(SEEN)))
"""
HEAD = """
import asyncio
import pytest
{imports}

KEPT = []

async def watch():
    await asyncio.Event().wait()

def start():
    KEPT.append(asyncio.get_running_loop().create_task(watch()))
"""
# A test that leaks and one that does not; with a fixture of a wider scope, if there is one.
PAIR = """
{mark}
async def test_leaks{name}({fixture}):
    start()
    await asyncio.sleep(0)

{mark}
async def test_clean{name}({fixture}):
    await asyncio.create_task(asyncio.sleep(0.01))
"""
PLAIN = """
async def main(leaks):
    if leaks:
        start()
    await asyncio.sleep(0)

{mark}
def test_leaks_plain():
    asyncio.run(main(True))

{mark}
def test_clean_plain():
    asyncio.run(main(False))
"""
SERVER = """
@{decorator}(scope="module"{options})
async def {server}({needs}):
    task = asyncio.create_task(watch())
    yield
    task.cancel()
"""
BACKEND = """
@pytest.fixture(scope="module", params=[{backends}])
def anyio_backend(request):
    return request.param
"""
CLIENT = """
@pytest.fixture
def app():
    async def index(request):
        if "leak" in request.query:
            start()
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", index)
    return app

async def test_leaks(aiohttp_client, app):
    client = await aiohttp_client(app)
    response = await client.get("/?leak")
    assert await response.text() == "hello"

async def test_clean(aiohttp_client, app):
    client = await aiohttp_client(app)
    response = await client.get("/")
    assert await response.text() == "hello"
"""
FLAKY = """
RUNS = []

{mark}
async def test_clean_at_last():
    RUNS.append(1)
    assert len(RUNS) == 2
"""
PYLEAK = """
@pytest.mark.asyncio
@pytest.mark.no_leaks(tasks=True)
async def test_fails_by_pyleak():
    task = asyncio.create_task(asyncio.sleep(0.2))

@pytest.mark.asyncio
@pytest.mark.no_leaks("tasks")
async def test_clean_by_pyleak():
    await asyncio.create_task(asyncio.sleep(0))

@pytest.mark.no_leaks
async def test_bare():
    pass
"""
TRIO = """
async def test_clean_trio(nursery):
    nursery.start_soon(trio.sleep, 0)
    await trio.sleep(0)
"""


class Case(NamedTuple):
    """A plugin of another project and a suite that uses it.

    Attributes:
        packages: requirements of pip.
        text: the test file.
        options: of the command line.
        ini: lines of the ini file.
        hidden: the name of the runner, if its tests cannot be checked.
        conftest: more of it.
    """

    packages: tuple[str, ...]
    text: str
    options: tuple[str, ...] = ()
    ini: tuple[str, ...] = ()
    hidden: str = ""
    conftest: str = ""


def body(*parts: str, **fields: str) -> str:
    """Return some parts of a test file, with their fields filled in."""
    empty = dict.fromkeys(("mark", "name", "fixture", "needs", "options"), "")
    return "".join(part.format(**{**empty, "server": "server", **fields}) for part in parts)


def suite(*parts: str, imports: str = "", **fields: str) -> str:
    """Return a test file."""
    return HEAD.format(imports=imports) + body(*parts, **fields)


def of_anyio(mark: str, backends: str) -> str:
    """Return a server of a module and tests, some of them beside it, for anyio's plugin."""
    own = body(PAIR, mark=mark, fixture="anyio_backend")
    return own + body(
        *(BACKEND, SERVER, PAIR),
        mark=mark,
        backends=backends,
        fixture="server",
        needs="anyio_backend",
        decorator="pytest.fixture",
        name="_beside_server",
    )


PYTEST = "pytest==9.2.0"
ASYNCIO = "pytest-asyncio==1.5.0"
ANYIO = "anyio==4.16.0"
BY_ANYIO = of_anyio("@pytest.mark.anyio", '"asyncio"')
# The same for pytest-asyncio, with a loop of the module for the server and the tests beside it.
BY_ASYNCIO = (
    body(PAIR, mark="@pytest.mark.asyncio", name="_alone")
    + body(
        *(SERVER, PAIR),
        server="loop_server",
        fixture="loop_server",
        name="_on_loop_of_module",
        mark='@pytest.mark.asyncio(loop_scope="module")',
        decorator="pytest_asyncio.fixture",
        options=', loop_scope="module"',
    )
    + body(PLAIN)
)
STRICT = HEAD.format(imports="import pytest_asyncio") + BY_ASYNCIO
AUTO = ("asyncio_mode = auto",)
CASES = {
    "pytest-asyncio strict": Case((PYTEST, ASYNCIO), STRICT),
    "pytest-asyncio auto": Case((PYTEST, ASYNCIO), suite(PAIR, PLAIN), ini=AUTO),
    "anyio": Case((PYTEST, ANYIO), HEAD.format(imports="") + BY_ANYIO),
    "anyio auto": Case(
        (PYTEST, ANYIO),
        HEAD.format(imports="") + of_anyio("", '"asyncio"'),
        ini=("anyio_mode = auto",),
    ),
    "anyio uvloop": Case(
        (PYTEST, ANYIO, "uvloop==0.23.0"),
        HEAD.format(imports="")
        + of_anyio("@pytest.mark.anyio", '("asyncio", {"use_uvloop": True})'),
    ),
    "anyio beside pytest-asyncio": Case(
        (PYTEST, ANYIO, ASYNCIO),
        HEAD.format(imports="import pytest_asyncio") + BY_ANYIO + BY_ASYNCIO,
    ),
    "pyleak": Case((PYTEST, ASYNCIO, "pyleak==0.2.0"), suite(PAIR, PLAIN, PYLEAK), ini=AUTO),
    "pytest-codspeed": Case(
        (PYTEST, ASYNCIO, "pytest-codspeed==5.0.4"),
        suite(PLAIN, PAIR, mark="@pytest.mark.benchmark"),
        options=("--codspeed",),
        ini=AUTO,
    ),
    "pytest-randomly": Case(
        (PYTEST, ASYNCIO, "pytest-randomly==5.1.0"), STRICT, options=("-p", "randomly")
    ),
    "pytest-rerunfailures": Case(
        (PYTEST, ASYNCIO, "pytest-rerunfailures==16.7"),
        suite(PAIR, PLAIN, FLAKY),
        options=("--reruns=1",),
        ini=AUTO,
    ),
    "pytest-xdist": Case((PYTEST, ASYNCIO, "pytest-xdist==3.8.0"), STRICT, options=("-n2",)),
    "pytest-timeout": Case(
        (PYTEST, ASYNCIO, "pytest-timeout==2.4.0"), STRICT, options=("--timeout=60",)
    ),
    "pytest-aiohttp": Case(
        (PYTEST, ASYNCIO, "pytest-aiohttp==1.1.1", "aiohttp==3.14.5"),
        suite(CLIENT, imports="from aiohttp import web"),
        ini=AUTO,
    ),
    "pytest-trio": Case(
        (PYTEST, "pytest-trio==0.8.0", "trio==0.35.0"),
        suite(PLAIN, TRIO, imports="import trio"),
        ini=("trio_mode = true",),
    ),
    "pytest-asyncio-concurrent": Case(
        ("pytest==8.4.2", "pytest-asyncio-concurrent==0.5.2"),
        suite(PAIR, mark='@pytest.mark.asyncio_concurrent(group="a")'),
    ),
    "alt-pytest-asyncio": Case(
        (PYTEST, "alt-pytest-asyncio==0.9.6"),
        suite(SERVER, PAIR, PLAIN, fixture="server", decorator="pytest.fixture"),
        conftest='pytest_plugins = ["alt_pytest_asyncio.enable"]',
    ),
    "pytest-asyncio-cooperative": Case(
        (PYTEST, "pytest-asyncio-cooperative==0.40.0"),
        suite(PAIR, mark="@pytest.mark.asyncio_cooperative"),
        hidden="pytest-asyncio-cooperative",
    ),
    "pytest-run-parallel": Case(
        (PYTEST, "pytest-run-parallel==0.10.0"),
        suite(PLAIN),
        options=("--parallel-threads=2",),
        hidden="pytest-run-parallel",
    ),
}


def run(place: Any, folder: Path, *options: str) -> tuple[int, list[list[str]], str]:
    """Run pytest; return its exit code, the reports of the tests, and its output."""
    seen = folder / "seen.json"
    seen.unlink(missing_ok=True)
    done = place.run("-m", "pytest", "-p", "no:cacheprovider", "-rA", *options, cwd=folder)
    assert seen.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(seen.read_text()), done.stdout


def failed(reports: list[list[str]]) -> set[str]:
    """Return the tests with a report that failed."""
    return {name for name, _, outcome in reports if outcome == "failed"}


def test_page_lists_every_plugin() -> None:
    """With the releases that are tried here, and its options."""
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if "| pytest " in line]
    for name, case in CASES.items():
        (row,) = (row for row in rows if row.startswith(f"| {name} |"))
        releases = [each.replace("==", " ") for each in case.packages]
        assert all(release in row for release in releases), (row, releases)
        assert ("named" in row) is bool(case.hidden)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_beside(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Off and warn change no outcome; strict fails the tests that leak, and no others."""
    case = CASES[name]
    place = installed.environment(tmp_path_factory, "", *case.packages)
    (tmp_path / "test_it.py").write_text(case.text)
    (tmp_path / "conftest.py").write_text(RECORDER + case.conftest)
    (tmp_path / "pytest.ini").write_text("\n".join(["[pytest]", *case.ini]))

    bare_code, bare, _ = run(place, tmp_path, *case.options, "-p", "no:muxleak")
    off_code, off, _ = run(place, tmp_path, *case.options, "--leaks=off")
    warn_code, warn, warned = run(
        place, tmp_path, *case.options, "--leaks=warn", "-Werror::muxleak.plugin.LeakWarning"
    )
    strict_code, strict, said = run(place, tmp_path, *case.options, "--leaks=strict")

    leaking = {test for test, *_ in bare if "leaks" in test}
    assert leaking
    assert failed(bare) < {test for test, *_ in bare}
    assert (off_code, off) == (bare_code, bare)
    assert (warn_code, warn) == (bare_code, bare)
    assert strict_code == 1
    if case.hidden:
        assert strict == bare
        assert f"cannot be checked under {case.hidden}" in said
        assert f"cannot be checked under {case.hidden}" in warned
    else:
        assert failed(strict) == failed(bare) | leaking, said
        assert f"{len(leaking)} test" in warned
        assert "left something behind" in warned
