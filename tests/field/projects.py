"""Test suites of other projects, and the judgements of the leaks that strict finds in them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Judgement:
    """A judgement of leaks that a suite leaves.

    Attributes:
        place: text of the report: the line that makes what is left.
        verdict: "true leak", "own sloppiness" of a test, or "false alarm".
        reason: one sentence.
    """

    place: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Suite:
    """The tests in a source distribution.

    Attributes:
        name: the project.
        release: pinned; installed, and its source distribution unpacked.
        requirements: pinned; of the tests.
        tests: files or folders to run.
        options: of pytest.
        hidden: folders of the source that would hide the installed package.
        judged: the judgements of its leaks.
        variables: environment variables of the run.
    """

    name: str
    release: str
    requirements: tuple[str, ...] = ()
    tests: tuple[str, ...] = ("tests",)
    options: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    judged: tuple[Judgement, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


_ASYNCIO = "pytest-asyncio==1.5.0"
_AIOHTTP = "aiohttp==3.14.5"
# Coverage and other plugins that a suite asks for by default are not installed.
_PLAIN = ("-o", "addopts=")
_LOOP = ("-o", "asyncio_default_fixture_loop_scope=function")
_KEEP_ALIVE = "tests/asyncio/test_keep_alive.py"

SUITES = (
    Suite("aiosqlite", "aiosqlite==0.22.1", tests=("aiosqlite/tests/smoke.py",)),
    Suite(
        "janus",
        "janus==2.0.0",
        (_ASYNCIO,),
        options=(*_PLAIN, *_LOOP, "--ignore=tests/test_benchmarks.py"),
        hidden=("janus",),
    ),
    Suite(
        "aiojobs",
        "aiojobs==1.4.0",
        (_AIOHTTP, _ASYNCIO, "pytest-aiohttp==1.1.1"),
        options=(*_PLAIN, *_LOOP, "--asyncio-mode=auto"),
        hidden=("aiojobs",),
        judged=(
            Judgement(
                "Job processing failed",
                "own sloppiness",
                "The test lets a job fail that nobody waits for; aiojobs tells the handler.",
            ),
        ),
    ),
    Suite(
        "aiohttp-sse",
        "aiohttp-sse==3.0",
        (_AIOHTTP, _ASYNCIO, "pytest-aiohttp==1.1.1"),
        options=(*_PLAIN, *_LOOP, "--asyncio-mode=auto"),
        hidden=("aiohttp_sse",),
    ),
    Suite(
        "async-lru",
        "async-lru==2.4.0",
        (_ASYNCIO, "pytest-timeout==2.4.0"),
        options=(*_PLAIN, *_LOOP),
        hidden=("async_lru",),
        judged=(
            Judgement(
                "_LRUCacheWrapper._task_done_callback",
                "own sloppiness",
                "The test leaves a cache with an entry whose timer is due in 1 s.",
            ),
            Judgement(
                "Future exception was never retrieved in Future: ZeroDivisionError",
                "own sloppiness",
                "The test gives a future an exception that nobody reads.",
            ),
        ),
    ),
    Suite(
        "hypercorn",
        "hypercorn==0.18.0",
        (_ASYNCIO, "pytest-trio==0.8.0", "httpx==0.28.1"),
        # Left out: a test whose answer must come within 10 ms.
        options=(
            *_PLAIN,
            *_LOOP,
            "--deselect",
            f"{_KEEP_ALIVE}::test_http1_keep_alive_pre_request",
        ),
        judged=(
            Judgement(
                "StatsdLogger._socket_send",
                "true leak",
                "The statsd logger opens a datagram endpoint and has no way to close it.",
            ),
        ),
    ),
    Suite(
        "python-engineio",
        "python-engineio==4.15.1",
        (_AIOHTTP, _ASYNCIO, "tornado==6.6.1"),
        tests=("tests/async",),
        options=(*_PLAIN, *_LOOP),
        judged=(
            Judgement(
                "AsyncSocket.schedule_ping",
                "true leak",
                "The ping task of a client stays for a ping interval after the client has gone.",
            ),
        ),
    ),
    Suite(
        "python-socketio",
        "python-socketio==5.18.1",
        (_AIOHTTP, _ASYNCIO, "msgpack==1.1.2", "redis==8.0.1", "valkey==6.1.1"),
        tests=("tests/async",),
        options=(*_PLAIN, *_LOOP, "--ignore=tests/async/test_admin.py"),
    ),
    Suite(
        "starlette",
        "starlette[full]==1.10.0",
        ("trio==0.35.0", "anyio==4.16.0"),
        options=(*_PLAIN, "--ignore=tests/middleware/test_opentelemetry.py"),
        hidden=("starlette",),
    ),
    Suite(
        "aioftp",
        "aioftp==0.28.3",
        (
            _ASYNCIO,
            "async-timeout==5.0.1",
            "pytest-mock==3.17.0",
            "trustme==1.2.1",
            "siosocks==0.3.0",
        ),
        tests=("tests/test_connection.py", "tests/test_file.py", "tests/test_user.py"),
        options=(*_PLAIN, *_LOOP),
        judged=(
            Judgement(
                "was dropped, and freed without being closed",
                "own sloppiness",
                "The test opens a passive connection and does not close it.",
            ),
        ),
    ),
    Suite(
        "uvicorn",
        "uvicorn[standard]==0.54.0",
        (
            "anyio==4.16.0",
            "httpx2==2.16.2",
            "wsproto==1.3.2",
            "a2wsgi==1.10.10",
            "trustme==1.2.1",
            "h2==4.4.1",
            "pytest-mock==3.17.0",
        ),
        tests=("tests/protocols", "tests/middleware", "tests/test_lifespan.py"),
        options=_PLAIN,
        hidden=("uvicorn",),
    ),
    Suite(
        "aiosmtpd",
        "aiosmtpd==1.4.6",
        (_ASYNCIO, "pytest-mock==3.17.0", "setuptools==75.8.0"),
        tests=("aiosmtpd/tests/test_handlers.py",),
        options=(*_PLAIN, *_LOOP, "-W", "ignore"),
        hidden=("aiosmtpd.egg-info",),
    ),
)
