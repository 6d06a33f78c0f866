"""Pods that say who they are, and a client that keeps its connections: a world for real connections."""

import asyncio
import contextlib

from kubewire.kernel import netns
from tests.kubeproxy.network import Network

CLIENT, A, B, C = "10.244.0.9", "10.244.0.1", "10.244.0.2", "10.244.0.3"


class World:
    """Pods that say who they are, and a client that keeps its connections."""

    def __init__(self) -> None:
        self._network = Network()
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, str]] = []
        self._servers: list[asyncio.Server] = []
        self._streams: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        """The client and three pods that answer on 8080."""
        self._network.pod(CLIENT)
        for ip in (A, B, C):
            self._network.pod(ip)
            listener = self._network.listener(ip, 8080)
            self._servers.append(await asyncio.start_server(self._answer, sock=listener))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.add(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                writer.write(f"{writer.get_extra_info('sockname')[0]}\n".encode())
        writer.close()

    async def connect(
        self, target: str, port: int = 80
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = netns.socket_in(self._network.pods[CLIENT])
        made.setblocking(False)
        events = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(events.sock_connect(made, (target, port)), 20)
        except BaseException:
            made.close()
            raise
        reader, writer = await asyncio.open_connection(sock=made)
        self._streams.add(writer)
        return reader, writer

    async def keep(self, target: str) -> None:
        """One more connection that stays."""
        reader, writer = await self.connect(target)
        self.open.append((reader, writer, await asked(reader, writer)))

    async def fresh(self, target: str, times: int) -> set[str]:
        """Who answers on new connections."""
        found = set()
        for _ in range(times):
            reader, writer = await self.connect(target)
            found.add(await asked(reader, writer))
            writer.close()
        return found

    async def hang_up(self) -> None:
        """End what was kept."""
        for _, writer, _ in self.open:
            writer.close()
            await writer.wait_closed()

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for stream in self._streams:
            stream.transport.abort()
        self._network.close()


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Who is at the other end."""
    writer.write(b"who?\n")
    return (await asyncio.wait_for(reader.readline(), 20)).decode().strip()
