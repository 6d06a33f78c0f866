"""Server cookies (RFC 7873, in the form of RFC 9018): proof that a client has its address.

A server cookie is a version, the time, and SipHash-2-4 over the client's cookie, both of these and
the client's address, so servers that share a secret know each other's cookies without a word.
"""

import ipaddress
import struct
from dataclasses import dataclass

from kubewire.dns.options import COOKIE, Option

CLIENT, SERVER = 8, 16
VERSION = b"\1\0\0\0"
FRESH, OLD, AHEAD = 1800, 3600, 300
"""Seconds: given back as it is up to FRESH, good up to OLD; clocks may differ by AHEAD."""

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Cookies:
    """The secrets of a server, 16 octets each: the first one signs, all of them are known."""

    secrets: tuple[bytes, ...]

    def sign(self, options: tuple[Option, ...], client: str, now: int) -> tuple[Option, ...] | None:
        """Options as they go back: the first cookie complete, no other one. None: malformed."""
        found: list[Option] = []
        signed = False
        for code, value in options:
            if code != COOKIE:
                found.append((code, value))
                continue
            if len(value) != CLIENT and not 2 * CLIENT <= len(value) <= 5 * CLIENT:
                return None
            if not signed:
                found.append((COOKIE, self.complete(value, client, now)))
            signed = True
        return tuple(found)

    def complete(self, cookie: bytes, client: str, now: int) -> bytes:
        """The client's cookie with a server cookie that is good for a while."""
        mine, server = cookie[:CLIENT], cookie[CLIENT:]
        if (age := self.age(cookie, client, now)) is not None and age <= FRESH:
            return mine + server
        return mine + _server_cookie(self.secrets[0], mine, client, now & 0xFFFFFFFF)

    def age(self, cookie: bytes, client: str, now: int) -> int | None:
        """Seconds since we made this cookie for this client; None: we did not, or long ago."""
        mine, server = cookie[:CLIENT], cookie[CLIENT:]
        if len(server) != SERVER or server[:4] != VERSION:
            return None
        made = int.from_bytes(server[4:8], "big")
        age = ((now - made + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        if not -AHEAD <= age <= OLD:
            return None
        ours = any(_server_cookie(s, mine, client, made) == server for s in self.secrets)
        return age if ours else None


def _server_cookie(secret: bytes, mine: bytes, client: str, made: int) -> bytes:
    head = VERSION + made.to_bytes(4, "big")
    address = ipaddress.ip_address(client.partition("%")[0]).packed
    return head + siphash(secret, mine + head + address)


def siphash(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4, eight octets."""
    k0, k1 = struct.unpack("<2Q", key)
    v: list[int] = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]  # fmt: skip
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 255
    _rounds(v, 4)
    return struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])


def _rounds(v: list[int], count: int) -> None:
    a, b, c, d = v
    for _ in range(count):
        a = (a + b) & _MASK
        b = _turn(b, 13) ^ a
        a = _turn(a, 32)
        c = (c + d) & _MASK
        d = _turn(d, 16) ^ c
        a = (a + d) & _MASK
        d = _turn(d, 21) ^ a
        c = (c + b) & _MASK
        b = _turn(b, 17) ^ c
        c = _turn(c, 32)
    v[:] = a, b, c, d


def _turn(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK
