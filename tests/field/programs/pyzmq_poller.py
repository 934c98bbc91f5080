"""An asyncio poller waits for a socket of the plain kind, and the socket is closed."""

import zmq
import zmq.asyncio


async def use() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.bind_to_random_port("tcp://127.0.0.1")
        poller = zmq.asyncio.Poller()
        poller.register(socket, zmq.POLLIN)
        assert await poller.poll(timeout=50) == []
