"""How streams ask: one message in, one message out, whatever carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kubewire.dns.dispatch import Dispatcher, Peer

if TYPE_CHECKING:
    from kubewire.dns.config import Block
    from kubewire.dns.transport.endpoint import Connection

NOWHERE: Peer = ("", 0)


class Behind(Protocol):
    """What stands behind a connection; the dispatcher may be another one at the next question."""

    dispatcher: Dispatcher
    connections: set[Connection]

    @property
    def block(self) -> Block:
        """Whose settings hold."""


async def ask(
    behind: Behind, data: bytes, client: Peer, local: Peer, proto: str = "tcp"
) -> bytes | None:
    """The one answer to a message; None: there is none that one message could hold."""
    found = behind.dispatcher.receive(data, client, local, proto)
    if found is not None and not isinstance(found, bytes | list):
        found = await found
    if isinstance(found, list):
        return found[0] if len(found) == 1 else None
    return found


def peer(name: tuple[str, int] | None) -> Peer:
    """Address and port of a transport's ``peername``, IPv4 ones without their mapping."""
    if not name:
        return NOWHERE
    return name[0].removeprefix("::ffff:"), name[1]
