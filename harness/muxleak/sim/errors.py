"""What a simulated loop may not do, and how a simulation fails."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from typing import Any

from muxleak.introspect.waiting import AnyTask, called_by, name_of, waiting_of

_SHOWN = 10


class SimulationError(RuntimeError):
    """A call that would leave the simulation: a thread, a socket, a signal, a process."""


class LivelockError(RuntimeError):
    """The loop did not come to rest within its step limit; the message names what is ready."""

    def __init__(self, iterations: int, now: float, ready: Iterable[asyncio.Handle]) -> None:
        counts = Counter(called_by(handle) for handle in ready).most_common(_SHOWN)
        names = ", ".join(f"{name} (x{count})" if count > 1 else name for name, count in counts)
        super().__init__(
            f"not at rest after {iterations} iterations at {now:g} s, ready: {names}; "
            "raise step_limit if this is honest work"
        )


class DeadlockError(RuntimeError):
    """What is run cannot complete: nothing is ready and no timer is set.

    Attributes:
        tasks: the blocked tasks.
    """

    def __init__(self, tasks: list[AnyTask]) -> None:
        self.tasks = tasks
        lines = [f"{name_of(task)} {waiting_of(task)}" for task in tasks[:_SHOWN]]
        if len(tasks) > _SHOWN:
            lines.append(f"and {len(tasks) - _SHOWN} more")
        head = f"nothing is ready and no timer is set, blocked tasks: {len(tasks)}"
        super().__init__("\n  ".join([head, *lines]))


class FencedLoop(asyncio.BaseEventLoop):
    """A loop that refuses, by name, every call that reaches a thread, socket, signal or process.

    It declares the private members of `BaseEventLoop` that the loop on virtual time relies on, so
    that they stand in one place; a test pins them on every supported Python.
    """

    _asyncgens: Collection[object]
    _closed: bool
    _debug: bool
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _task_factory: object
    _thread_id: int | None
    _timer_cancelled_count: int
    _asyncgen_firstiter_hook: Callable[..., None]
    _asyncgen_finalizer_hook: Callable[..., None]
    _check_closed: Callable[[], None]
    _check_running: Callable[[], None]


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_args: object, **_settings: object) -> Any:
        raise SimulationError(f"{name} leaves the simulation: there are no sockets or threads here")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


_OUTSIDE = (
    "add_reader add_signal_handler add_writer connect_accepted_socket connect_read_pipe "
    "connect_write_pipe create_connection create_datagram_endpoint create_server "
    "create_unix_connection create_unix_server getaddrinfo getnameinfo remove_reader "
    "remove_signal_handler remove_writer run_in_executor sendfile sock_accept sock_connect "
    "sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendfile "
    "sock_sendto start_tls subprocess_exec subprocess_shell"
)
for _name in _OUTSIDE.split():
    setattr(FencedLoop, _name, _refuse(_name))
