"""metadata: collect labels of a request for log and view."""

from __future__ import annotations

from kubewire.dns.plugin import Plugin, Setup


class Metadata(Plugin):
    """Switches the collection on for its server block."""

    name = "metadata"
    handles = False
    replayable = False

    @classmethod
    def setup(cls, setup: Setup) -> Metadata:
        """Read the directive."""
        setup.once()
        if setup.next_block():
            raise setup.arg_err()
        if setup.next():
            raise setup.arg_err()
        setup.block.metadata = True
        return cls()


PLUGIN = Metadata
