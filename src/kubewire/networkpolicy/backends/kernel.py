"""What every back end shares: reports of denied packets, and connections that are cut."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Self

from kubewire.kernel.conntrack import Conntrack, Entry
from kubewire.kernel.netns import Netns
from kubewire.kernel.nfqueue import Held, Queue
from kubewire.networkpolicy.droplog import Drop, DropLog
from kubewire.networkpolicy.labels import PROTOCOLS, QUEUE
from kubewire.networkpolicy.model import Address
from kubewire.networkpolicy.program import Program

log = logging.getLogger(__name__)
_NAMES = {number: name for name, number in PROTOCOLS.items() if not name.startswith("ICMP")}


class KernelEnforcer(ABC):
    """Programs in the kernel of one network namespace; the rules stay when it is closed."""

    def __init__(self, netns: Netns | None = None) -> None:
        self.netns = netns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        return

    @abstractmethod
    async def apply(self, old: Program | None, new: Program) -> None:
        """Bring ``new`` into the kernel; ``old`` None: whatever there is, is replaced."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove everything of ours."""

    async def settle(self) -> None:
        """Remove what another back end has left: this one is in force now."""
        from kubewire.networkpolicy import backends

        for name in filter(backends.installed, backends.BACKENDS):
            with backends.enforcer(name, self.netns) as other:
                if type(other) is not type(self):
                    await other.clear()

    @abstractmethod
    def change(self, program: Program) -> None:
        """Bring a program into the kernel by its difference to the one before."""

    @abstractmethod
    def replace(self, program: Program) -> None:
        """Bring a program into the kernel in place of whatever there is."""

    @abstractmethod
    def counters(self) -> Counter[str]:
        """Packets that the rules decided, by the text of their label."""

    @abstractmethod
    def members(self, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
        """Addresses in sets of the program that is in the kernel; of those that are there."""

    async def answers(self) -> AsyncGenerator[Held, None]:
        """DNS answers to pods whose policies name domains; each waits until it is released."""
        try:
            source = Queue(QUEUE, self.netns)
        except OSError as error:
            # EPERM: another agent reads the queue. EINVAL: the kernel has none.
            log.warning("DNS answers are not read, peers by name match nothing: %s", error)
            return
        with source:
            async for held in source.packets():
                yield held

    async def cut(self, denied: Callable[[Address, Address, str, int], bool]) -> int:
        """Forget established flows that are denied: their next packet is judged as a new one."""

        def unwanted(entry: Entry) -> bool:
            target, port = entry.translated_to
            protocol = _NAMES.get(entry.original.protocol)
            return protocol is not None and denied(entry.original.source, target, protocol, port)

        with Conntrack(self.netns) as table:
            return table.delete_where(unwanted)

    async def drops(self) -> AsyncGenerator[Drop, None]:
        """Packets that rules have denied, from now on."""
        try:
            source = DropLog(self.netns)
        except OSError as error:
            # A kernel without NFLOG enforces all the same; EBUSY: another agent reads the group.
            log.warning("denied packets are not reported: %s", error)
            return
        with source:
            async for drop in source.drops():
                yield drop
