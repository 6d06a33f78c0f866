"""A plugin without an agent: one process per call, as the installed script starts it."""

import asyncio
import os
import sys
from contextlib import ExitStack

from kubewire.cni.plugin import Plugin


def main(program: str) -> None:
    """Answer the call in this process's environment and on its stdin."""
    status = asyncio.run(_run(program))
    # Whoever is killed while Python takes itself apart has failed in the eyes of a runtime.
    os._exit(status)


async def _run(program: str) -> int:
    plugin = Plugin()
    with ExitStack() as held:
        try:
            status, answer = await plugin.run(program, os.environ, sys.stdin.buffer.read(), held)
        finally:
            await plugin.close()
        try:
            sys.stdout.buffer.write(answer)
            sys.stdout.flush()
        except OSError:
            # Nobody hears it: the mark stays, and the next call undoes what was made.
            os._exit(1)
    return status
