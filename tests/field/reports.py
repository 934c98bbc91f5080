"""Public bug reports of other projects, with an affected release and the one that fixed it.

Each is a small program in ``programs/``, as a user would write it who has read the report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """A public bug report.

    Attributes:
        program: the module in ``programs/``.
        source: its address.
        fault: what stays behind, in a few words.
        affected: requirements, pinned, with the affected release first.
        fixed: the same with the release that fixed it; empty if there is none yet.
        beside: requirements of both.
        place: text of the line that the report must name.
        kept: a line for ``leaks_ignore``: what the project keeps by design.
        entry: the first entry that finds it, as ``docs/field.md`` says.
    """

    program: str
    source: str
    fault: str
    affected: tuple[str, ...]
    fixed: tuple[str, ...]
    place: str
    beside: tuple[str, ...] = ()
    kept: str = ""
    entry: str = "block"

    @property
    def releases(self) -> str:
        """The project and its two releases, as in the table."""
        project, _, release = self.affected[0].partition("==")
        other = self.fixed[0].partition("==")[2] if self.fixed else "none"
        return f"{project} {release} / {other}"


WATCHER = "created_by _ensure_watcher_started_on_this_loop  # one watcher a thread"
"""sse-starlette keeps it by design, for the first response of a thread."""

REPORTS = (
    Report(
        "sse_starlette_watcher",
        "https://github.com/sysid/sse-starlette/issues/152",
        "a watcher for each response, until the server ends",
        ("sse-starlette==3.1.1",),
        ("sse-starlette==3.1.2",),
        "_ensure_watcher_started_on_this_loop",
        ("starlette==0.50.0", "httpx==0.28.1"),
        kept=WATCHER,
    ),
    Report(
        "socketio_reconnect",
        "https://github.com/miguelgrinberg/python-socketio/issues/1333",
        "a client that waits to connect again swallows its cancellation",
        ("python-socketio==5.11.2",),
        ("python-socketio==5.11.3",),
        "AsyncClient._handle_reconnect",
        ("python-engineio==4.9.1", "aiohttp==3.14.5"),
    ),
    Report(
        "strawberry_subscription",
        "https://github.com/strawberry-graphql/strawberry/issues/3777",
        "subscriptions whose client left before their first result",
        ("strawberry-graphql==0.259.0",),
        ("strawberry-graphql==0.262.0",),
        "BaseGraphQLWSHandler.handle_start",
        ("aiohttp==3.14.5", "graphql-core==3.2.6"),
    ),
    Report(
        "pyzmq_poller",
        "https://pyzmq.readthedocs.io/en/latest/changelog.html",
        "a watched descriptor for each poll of a socket of the plain kind",
        ("pyzmq==25.1.2",),
        ("pyzmq==26.0.0",),
        "Socket._init_io_state",
    ),
    Report(
        "aiohttp_resolver",
        "https://github.com/aio-libs/aiohttp/issues/8967",
        "a look-up of a name that outlives its session",
        ("aiohttp==3.10.5",),
        ("aiohttp==3.10.6",),
        "TCPConnector._resolve_host",
    ),
    Report(
        "anyio_connect",
        "https://github.com/agronholm/anyio/issues/1364",
        "connected sockets of cancelled attempts",
        ("anyio==4.15.1",),
        ("anyio==4.16.0",),
        "AsyncIOBackend.connect_tcp",
    ),
    Report(
        "anyio_listener",
        "https://github.com/agronholm/anyio/issues/1289",
        "a task that waits for a connection of a closed listener",
        ("anyio==4.15.1",),
        ("anyio==4.16.0",),
        "UNIXSocketListener.accept",
    ),
    Report(
        "aioice_cancelled",
        "https://aioice.readthedocs.io/en/latest/changelog.html",
        "connectivity checks of a closed connection",
        ("aioice==0.12.0",),
        ("aioice==0.12.1",),
        "Connection.check_start",
    ),
    Report(
        "nats_close",
        "https://github.com/nats-io/nats.py/pull/446",
        "a task that waits for a message of a closed client",
        ("nats-py==2.2.0",),
        ("nats-py==2.3.1",),
        "Subscription.next_msg",
    ),
    Report(
        "redis_pipeline",
        "https://github.com/redis/redis-py/issues/4121",
        "a pooled connection that a cancelled pipeline does not give back",
        ("redis==7.4.0",),
        ("redis==8.0.1",),
        "Unclosed Pipeline client",
    ),
    Report(
        "mcp_stateless",
        "https://github.com/modelcontextprotocol/python-sdk/issues/756",
        "three tasks for each request to a stateless server",
        ("mcp==1.9.0",),
        ("mcp==1.26.0",),
        "StreamableHTTPSessionManager._handle_stateless_request",
        ("httpx==0.28.1", "pydantic==2.11.7", "anyio==4.16.0", "sse-starlette==3.1.2"),
        kept=WATCHER,
    ),
    Report(
        "hypercorn_end",
        "https://github.com/pgjones/hypercorn/blob/main/CHANGELOG.rst",
        "requests that are not told that their client has left",
        ("hypercorn==0.14.3",),
        ("hypercorn==0.17.3",),
        "worker_serve",
        entry="repeat",
    ),
    Report(
        "uvicorn_reset",
        "https://github.com/Soju06/codex-lb/issues/2041",
        "the keep-alive timer of a connection that was reset",
        ("uvicorn==0.54.0",),
        (),
        "H11Protocol.on_response_complete",
    ),
)
