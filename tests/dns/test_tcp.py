"""TCP clients that are slow, greedy or gone."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

Serve = Any
Bytes = Callable[..., bytes]

HOSTS = "\n".join(f"10.1.{i >> 8}.{i & 255} big.example.org" for i in range(2000))
COREFILE = f"""example.org:0 {{
    timeouts {{
        read 1s
        write 1s
        idle 1s
    }}
    hosts {{
        {HOSTS}
    }}
}}
"""


async def test_a_dribbling_sender_is_cut_off(serve: Serve) -> None:
    async with serve(COREFILE, []) as dns:
        reader, writer = await asyncio.open_connection("127.0.0.1", dns.port)
        ended = asyncio.ensure_future(reader.read())
        sent = 0
        while not ended.done():
            writer.write(b"\xff")
            sent += 1
            await asyncio.wait([ended], timeout=0.2)
        assert await ended == b""
        assert sent < 60
        writer.close()


async def test_what_is_no_message_ends_the_connection(serve: Serve) -> None:
    async with serve(COREFILE, []) as dns:
        reader, writer = await asyncio.open_connection("127.0.0.1", dns.port)
        writer.write(b"\0\0" * 3)
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_does_not_read_is_cut_off(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(COREFILE, []) as dns:
        data = ask_bytes("big.example.org.")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", dns.port))
            [endpoint] = dns.server._endpoints.values()
            try:
                async with asyncio.timeout(60):
                    while True:
                        await loop.sock_sendall(sock, struct.pack("!H", len(data)) + data)
            except ConnectionError:
                pass
            assert not endpoint.connections


async def test_it_reads_on_when_the_client_has_caught_up(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(COREFILE.replace("write 1s", "write 1m"), []) as dns:
        found = await dns.tcp(*(ask_bytes("big.example.org.", id=i) for i in range(30)))
        assert [m.id for m in found] == list(range(30))
        assert {len(m.answer) for m in found} == {2000}


async def test_questions_before_the_end_are_answered(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(COREFILE, []) as dns:
        reader, writer = await asyncio.open_connection("127.0.0.1", dns.port)
        data = ask_bytes("big.example.org.")
        writer.write(struct.pack("!H", len(data)) + data)
        writer.write_eof()
        answer = await reader.read()
        assert len(answer) == 2 + struct.unpack("!H", answer[:2])[0]
        writer.close()
