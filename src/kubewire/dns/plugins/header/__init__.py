"""header: set or clear flags of questions and answers."""

from __future__ import annotations

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns.message import AA, RA, RD

FLAGS = {"aa": AA, "ra": RA, "rd": RD}
Rule = tuple[str, bool]


class Header(Plugin):
    """Rules on aa, ra and rd."""

    name = "header"

    def __init__(self, query: list[Rule], response: list[Rule]) -> None:
        self._query, self._response = query, response

    @classmethod
    def setup(cls, setup: Setup) -> Header:
        """Read the directive."""
        rules: dict[str, list[Rule]] = {"query": [], "response": []}
        if setup.once():
            raise setup.arg_err()
        for word, args in setup.properties():
            side, action, flags = (
                (word, args[0] if args else "", args[1:])
                if word in rules
                else ("response", word, args)
            )
            if word.lower() not in (*rules, "set", "clear"):
                raise CorefileError(
                    f"setting up rule: invalid selector={word.lower()} should be query or response"
                )
            if not flags:
                raise CorefileError(
                    "setting up rule: invalid length for flags, at least one should be provided"
                )
            if action not in ("set", "clear"):
                raise CorefileError(
                    f"setting up rule: unknown flag action={action}, should be set or clear"
                )
            for flag in flags:
                if flag.lower() not in FLAGS:
                    raise CorefileError(f"setting up rule: unknown/unsupported flag={flag}")
                rules[side].append((flag.lower(), action == "set"))
        setup.no_more()
        return cls(rules["query"], rules["response"])

    async def serve(self, request: Request) -> Response:
        """Change the question, then the answer."""
        asked = request.message.flags
        for flag, on in self._query:
            bit = FLAGS[flag]
            request.message.flags = request.message.flags & ~bit | bit * on
        response = await self.next.serve(request)
        if self._query and response.rd is None:
            response.rd = bool(request.message.flags & RD)
        request.message.flags = asked
        for flag, on in self._response if response.written else ():
            setattr(response, flag, on)
        return response


PLUGIN = Header
