"""A network that fails, for scripts/chaos: TCP links that cut, swallow, stop reading and delay."""

import asyncio
import threading


class Network:
    """All links, in a thread of their own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def link(self, port):
        """A link to a port of this machine."""
        link = Link(self, port)
        asyncio.run_coroutine_threadsafe(link.listen(), self.loop).result()
        return link


class Link:
    """A port that leads to another, as well as the network lets it."""

    def __init__(self, network, target):
        self.network = network
        self.target = target
        self.state = "open"
        self.delay = 0
        self.connections = set()

    async def listen(self):
        self.can_read = asyncio.Event()
        self.can_read.set()
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0, backlog=128)
        self.port = self.server.sockets[0].getsockname()[1]

    # ---- what the faults call, from their own thread ----

    def cut(self):
        """Resets every connection, and each new one."""
        self.call(self.change, "cut")

    def swallow(self):
        """Carries nothing any more, and says nothing of it. The connections there are stay so."""
        self.call(self.change, "swallow")

    def stop_reading(self):
        """Takes no byte from either side; later it goes on."""
        self.call(self.change, "stalled")

    def slow(self, seconds):
        """Carries each piece so much later."""
        self.call(self.change, "open", seconds)

    def heal(self):
        self.call(self.change, "open")

    def call(self, function, *arguments):
        done = threading.Event()
        self.network.loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        done.wait(5)

    # ---- what goes on in the network's thread ----

    def change(self, state, delay=0):
        self.state, self.delay = state, delay
        (self.can_read.clear if state == "stalled" else self.can_read.set)()
        for connection in list(self.connections):
            if state == "cut":
                connection.abort()
            elif state == "swallow":
                connection.is_swallowed = True

    async def accept(self, reader, writer):
        if self.state == "cut":
            return writer.transport.abort()
        connection = Connection(self, writer, is_swallowed=self.state == "swallow")
        self.connections.add(connection)
        try:
            await connection.run(reader)
        except OSError:
            pass
        finally:
            self.connections.discard(connection)
            connection.abort()


class Connection:
    def __init__(self, link, writer, is_swallowed):
        self.link = link
        self.writers = [writer]
        self.is_swallowed = is_swallowed

    async def run(self, reader):
        there, back = await asyncio.open_connection("127.0.0.1", self.link.target)
        self.writers.append(back)
        pumps = [asyncio.create_task(self.pump(reader, back)), asyncio.create_task(self.pump(there, self.writers[0]))]
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if self.is_swallowed and pumps[1] in done:
            # Nobody hears that the server has ended it.
            await pumps[0]
        for pump in pumps:
            pump.cancel()

    async def pump(self, reader, writer):
        try:
            while data := await reader.read(1 << 16):
                await self.link.can_read.wait()
                if self.is_swallowed:
                    continue
                if self.link.delay:
                    await asyncio.sleep(self.link.delay)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass

    def abort(self):
        for writer in self.writers:
            writer.transport.abort()
