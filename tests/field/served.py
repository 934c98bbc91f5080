"""Libraries for servers, with a user's server on each: one clean, one with a planted leak.

The programs are in ``servers/``. Each has functions `clean` and `planted` for `check_server`, a
list `MESSAGES`, and perhaps further `OPTIONS`. The line that makes the planted leak ends with the
comment "# planted". A leak of the library itself may need a function, messages and options of its
own, such as `leaving` and `LEAVING_MESSAGES`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrueLeak:
    """A leak of the library itself, which a plain script without muxleak has shown as well.

    Attributes:
        place: text of the report: the function that makes what is left.
        reason: one sentence, with the counts of the plain script.
        variant: the function of the program that shows it.
    """

    place: str
    reason: str
    variant: str = "clean"


@dataclass(frozen=True)
class UserServer:
    """A server that a user has written with a library.

    Attributes:
        program: the module in ``servers/``: the project, and the kind of the planted leak.
        release: of the library, pinned.
        requirements: pinned; beside the library.
        target: of `check_server`.
        leaks: true leaks of the library. The clean variant is checked without those of its own.
        most: number of sequences, at most, where each takes long.
    """

    program: str
    release: str
    requirements: tuple[str, ...] = ()
    target: str = "simulated"
    leaks: tuple[TrueLeak, ...] = ()
    most: int = 1_000_000

    @property
    def kind(self) -> str:
        """The kind of the planted leak."""
        return self.program.rpartition("_")[2]

    def ignored(self, variant: str, sought: str = "") -> list[str]:
        """Return the places of true leaks that a variant would show beside the one sought."""
        shown = {"clean", variant} if variant == "planted" else {variant}
        return [each.place for each in self.leaks if each.variant in shown and each.place != sought]


SERVERS = (
    UserServer("websockets_task", "websockets==17.4"),
    UserServer("aiohttp_timer", "aiohttp==3.14.5"),
    UserServer(
        "uvicorn_task",
        "uvicorn==0.54.0",
        leaks=(
            TrueLeak(
                "H11Protocol.handle_events",
                "A client that sends a second request before the answer to the first, and leaves, "
                "is noticed only by the next write: 20 of 20 applications that wait stay.",
                "waiting",
            ),
        ),
    ),
    UserServer(
        "hypercorn_task",
        "hypercorn==0.18.0",
        target="tcp",
        most=500,
        leaks=(
            TrueLeak(
                "worker_serve.<locals>._server_callback",
                "A client that sends a second request before the answer to the first, and leaves, "
                "keeps the handler of its connection: 20 of 20.",
            ),
        ),
    ),
    UserServer("asyncssh_task", "asyncssh==2.24.1", target="tcp"),
    UserServer("aiosmtpd_task", "aiosmtpd==1.4.6"),
    UserServer(
        "aioftp_task",
        "aioftp==0.28.3",
        leaks=(
            TrueLeak(
                "Server.dispatcher",
                "A client that reads no answers, sends QUIT and leaves keeps its handler for ever: "
                "3 of 3.",
                "leaving",
            ),
        ),
    ),
    UserServer("pymodbus_task", "pymodbus==3.16.1"),
    UserServer(
        "amqtt_task",
        "amqtt==0.12.1",
        leaks=(
            TrueLeak(
                "Broker._create_server_instance",
                "A client that leaves before its first packet keeps a descriptor until garbage is "
                "collected: 20 of 20.",
            ),
        ),
    ),
    UserServer("tornado_timer", "tornado==6.6.1", target="tcp"),
    UserServer("pproxy_connection", "pproxy==2.7.9"),
    UserServer(
        "socketio_task",
        "python-socketio==5.18.1",
        ("aiohttp==3.14.5", "python-engineio==4.15.1"),
        leaks=(
            TrueLeak(
                "AsyncSocket.schedule_ping",
                "The ping task of a client stays for 25 s after it has left: 5 of 5.",
                "leaving",
            ),
            TrueLeak(
                "AsyncSocket._websocket_handler",
                "The task that writes to a client stays for 25 s after it has left, if it has sent "
                "a packet of an unknown type: 20 of 20.",
                "leaving",
            ),
        ),
    ),
    UserServer(
        "grpclib_gather",
        "grpclib==0.4.9",
        ("protobuf==6.33.2",),
    ),
    UserServer("telnetlib3_generator", "telnetlib3==5.0.1"),
)
