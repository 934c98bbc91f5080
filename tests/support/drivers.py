"""Programs that draw their events, each with a leak, and the fewest events that show it.

Each has many events and operands that do not matter, so that a search finds the leak at the end of
a long run, and a shrinker has steps to delete.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from muxleak.sim import Network, current, simulated
from tasks import forever

Program = Callable[[], Coroutine[Any, Any, None]]

EVENTS = 12
HOST, PORT = "127.0.0.1", 8000


class Keeper:
    """Tasks by key, as a server keeps those of its clients."""

    def __init__(self) -> None:
        self.tasks: dict[object, asyncio.Task[None]] = {}

    def start(self, key: object) -> None:
        """Start a task; one that has the key already is forgotten."""
        self.tasks[key] = asyncio.create_task(forever())

    def end(self, key: object) -> None:
        """End the task of a key, if there is one."""
        if key in self.tasks:
            self.tasks.pop(key).cancel()

    def forget(self, key: object) -> None:
        """Drop the task of a key; it goes on."""
        del self.tasks[key]

    def close(self) -> None:
        """End all tasks that are known."""
        for key in list(self.tasks):
            self.end(key)


async def counted(fatal: int) -> None:
    """Open connections, of which one leaks."""
    opened = 0
    while current().choices.below(3):
        opened += 1
        current().step(f"open {opened}")
        if opened == fatal:
            _ = asyncio.get_running_loop().create_task(forever())
        await current().gap()


async def second() -> None:
    """Leak the second connection."""
    await counted(2)


async def third() -> None:
    """Leak the third connection."""
    await counted(3)


async def leases() -> None:
    """Renew a lease, which forgets the timer of the first."""
    simulation, choices, keeper = current(), current().choices, Keeper()
    held: set[str] = set()
    for _ in range(EVENTS):
        event = choices.pick(["stop", "grant", "renew", "release"])
        if event == "stop":
            break
        key = choices.pick(["a", "b", "c"])
        simulation.step(f"{event} {key}")
        if event == "grant" and key not in held:
            held.add(key)
            keeper.start(key)
        elif event == "renew" and key in held:
            keeper.start(key)
        elif event == "release":
            held.discard(key)
            keeper.end(key)
        await simulation.gap()
    keeper.close()


async def pool() -> None:
    """Give back a broken connection, whose heartbeat goes on."""
    simulation, choices, keeper = current(), current().choices, Keeper()
    taken: list[int] = []
    broken: set[int] = set()
    made = 0
    for _ in range(EVENTS):
        event = choices.pick(["stop", "take", "use", "give", "break"])
        if event == "stop":
            break
        if event == "take":
            simulation.step(f"take {made}")
            taken.append(made)
            keeper.start(made)
            made += 1
        elif taken:
            number = taken[choices.below(len(taken))]
            simulation.step(f"{event} {number}")
            if event == "break":
                broken.add(number)
            elif event == "give":
                taken.remove(number)
                if number in broken:
                    keeper.forget(number)
                else:
                    keeper.end(number)
        await simulation.gap()
    keeper.close()


async def rooms() -> None:
    """Delete a room that has a member, whose sender goes on."""
    simulation, choices, keeper = current(), current().choices, Keeper()
    members: dict[str, list[int]] = {}
    for _ in range(EVENTS):
        event = choices.pick(["stop", "create", "join", "leave", "delete"])
        if event == "stop":
            break
        name = choices.pick(["red", "green", "blue"])
        client = choices.below(4) if event in {"join", "leave"} else 0
        simulation.step(f"{event} {name} {client}")
        if event == "create":
            members.setdefault(name, [])
        elif event == "join" and name in members and client not in members[name]:
            members[name].append(client)
            keeper.start((name, client))
        elif event == "leave" and client in members.get(name, []):
            members[name].remove(client)
            keeper.end((name, client))
        elif event == "delete":
            members.pop(name, None)
        await simulation.gap()
    for name, clients in members.items():
        for client in clients:
            keeper.end((name, client))


async def transfers() -> None:
    """Cancel a transfer that is paused, whose writer waits for ever."""
    simulation, choices, keeper = current(), current().choices, Keeper()
    states: list[str] = []
    for _ in range(EVENTS):
        event = choices.pick(["stop", "begin", "pause", "resume", "cancel"])
        if event == "stop":
            break
        if event == "begin":
            simulation.step(f"begin {len(states)}")
            keeper.start(len(states))
            states.append("runs")
        elif states:
            number = choices.below(len(states))
            simulation.step(f"{event} {number}")
            if event == "cancel":
                if states[number] == "paused":
                    keeper.forget(number)
                keeper.end(number)
                states[number] = "over"
            elif states[number] != "over":
                states[number] = "paused" if event == "pause" else "runs"
        await simulation.gap()
    keeper.close()


class Sessions:
    """A server whose clients may come back; a second connection forgets the task of the first."""

    def __init__(self, *, resumes: bool) -> None:
        self.resumes = resumes
        self.dropped: set[str] = set()
        self.keeper = Keeper()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        name = (await reader.readline()).decode().strip()
        if self.resumes and name in self.keeper.tasks and name not in self.dropped:
            writer.close()  # it is there already
            return
        self.keeper.start(name)
        try:
            while await reader.readline():
                writer.write(b"welcome\n")
        except ConnectionError:
            pass
        finally:
            if self.resumes and name not in self.dropped:
                self.dropped.add(name)  # its task stays for the client's return
            else:
                self.keeper.end(name)
            writer.close()


async def clients(server: Sessions) -> None:
    """Join, speak and leave, as drawn."""
    simulation, choices = current(), current().choices
    listening = await asyncio.start_server(server.serve, HOST, PORT)
    writers: list[asyncio.StreamWriter] = []
    for _ in range(EVENTS):
        event = choices.pick(["stop", "join", "say", "leave"])
        if event == "stop":
            break
        if event == "join":
            name = choices.pick(["ann", "bob", "cat"])
            simulation.step(f"{len(writers)} joins as {name}")
            _, writer = await asyncio.open_connection(HOST, PORT)
            writer.write(f"{name}\n".encode())
            writers.append(writer)
        elif writers:
            number = choices.below(len(writers))
            simulation.step(f"{number} {event}s")
            if event == "say":
                writers[number].write(b"hello\n")
            else:
                writers[number].close()
        await simulation.gap()
    for writer in writers:
        writer.close()
    listening.close()
    await simulation.settle()
    server.keeper.close()


async def chat() -> None:
    """Join twice under one name."""
    await clients(Sessions(resumes=False))


async def resumed() -> None:
    """Join twice under one name, the second time as the first connection ends."""
    await clients(Sessions(resumes=True))


@simulated(network=Network(faults=("reset",)))
async def reset() -> None:
    """Leak the heartbeat of a connection that the peer resets; no event is needed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heartbeat = asyncio.create_task(forever())
        await reader.read()
        heartbeat.cancel()
        writer.close()

    simulation = current()
    server = await asyncio.start_server(serve, HOST, PORT)
    for number in range(simulation.choices.below(4) + 1):
        if number:
            simulation.step("once more")
        _, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(b"hello\n")
        await simulation.gap()
        writer.close()
    server.close()


def announced(steps: Iterable[str]) -> int:
    """Return the number of steps that a program has announced, without the faults drawn."""
    return sum(not ("the network " in each or "is stranded" in each) for each in steps)


class Driver(NamedTuple):
    """A program, and the number of steps of its shortest failing run."""

    program: Program
    shortest: int


DRIVERS = {
    "second": Driver(second, 2),
    "third": Driver(third, 3),
    "leases": Driver(leases, 2),
    "pool": Driver(pool, 3),
    "rooms": Driver(rooms, 3),
    "transfers": Driver(transfers, 3),
    "chat": Driver(chat, 2),
    "resumed": Driver(resumed, 2),
    "reset": Driver(reset, 0),
}
