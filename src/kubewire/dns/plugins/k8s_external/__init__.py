"""k8s_external: external addresses of Services under a zone of the outside world."""

from __future__ import annotations

from kubewire.api.meta import Key
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Fallthrough, Plugin, Replay, Request, Response, Setup
from kubewire.dns.plugins.k8s_external.hostnames import Hostnames, hostname_dep
from kubewire.dns.plugins.k8s_external.records import External, below, by_outer_address
from kubewire.dns.plugins.kubernetes import Kubernetes
from kubewire.dns.plugins.kubernetes.cluster import ANY, namespace_dep, service_dep
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, longest_zone, relative, reverse_address, split
from kubewire.lang.dns.record import RR, address, cname, ns, ptr, soa


class K8sExternal(Plugin):
    """``svc.ns.ZONE`` from externalIPs and load balancers; reads what kubernetes watches."""

    name = "k8s_external"

    def __init__(self, zones: list[str], setup: Setup) -> None:
        self.zones = zones
        self.hostnames: Hostnames | None = None
        self.apex = "dns"
        self.ttl = 5
        self.headless = False
        self.fall = Fallthrough()
        self._block, self._env = setup.block, setup.env
        self._by_address: dict[str, list[Key]] | None = None
        """Services by outer address, until one changes."""

    @classmethod
    def setup(cls, setup: Setup) -> K8sExternal:
        """Read the directive."""
        plugin = cls(setup.zones(setup.once()), setup)
        for word, args in setup.properties():
            match word, args:
                case "ttl", [value]:
                    try:
                        plugin.ttl = int(value)
                    except ValueError as error:
                        raise CorefileError(
                            f'strconv.Atoi: parsing "{value}": invalid syntax'
                        ) from error
                    if not 0 <= plugin.ttl <= 3600:
                        raise setup.err(f"ttl must be in range [0, 3600]: {plugin.ttl}")
                case "apex", [value]:
                    plugin.apex = value
                case "headless", _:
                    plugin.headless = True
                case "hostnames", []:
                    plugin.hostnames = Hostnames(plugin._changed)
                case "fallthrough", _:
                    plugin.fall = Fallthrough.from_args(args)
                case (("ttl" | "apex" | "hostnames"), _):
                    raise setup.arg_err()
                case _:
                    raise setup.err(f"unknown property '{word}'")
        setup.no_more()
        if plugin.hostnames and setup.env.objects is not None:
            plugin.hostnames.load(setup.env.objects)
        return plugin

    async def start(self) -> None:
        """Begin to watch what the names come from."""
        kubernetes = self._kubernetes
        if kubernetes is None:
            return
        kubernetes.on_change.append(self._forget_addresses)
        if self.hostnames is None or self._env.offline:
            return
        from kubewire.dns.plugins.kubernetes.watch import connect

        source = kubernetes.source
        agent = f"{source.agent or 'dns'}/hostnames"
        await self.hostnames.start(connect(source), agent, source.startup_timeout)

    async def stop(self, *, final: bool) -> None:
        """Stop to watch."""
        if self.hostnames is not None:
            await self.hostnames.stop()

    def _forget_addresses(self, deps: set[object]) -> None:
        self._by_address = None

    def _changed(self, deps: set[object]) -> None:
        if kubernetes := self._kubernetes:
            kubernetes.changed(deps)

    @property
    def _kubernetes(self) -> Kubernetes | None:
        found = self._block.plugin("kubernetes")
        return found if isinstance(found, Kubernetes) else None

    async def serve(self, request: Request) -> Response:
        """Answer names below our zones."""
        zone = longest_zone(request.name, self.zones)
        kubernetes = self._kubernetes
        if not zone or kubernetes is None:
            return await self.next.serve(request)
        if reply := self._hostname(request, zone, kubernetes):
            return reply
        labels = split(relative(request.name, zone))
        if not labels or labels[-1] == self.apex:
            return self._own(request, zone, labels, kubernetes)
        if not kubernetes.cluster.synced:
            return self._nothing(zone, kubernetes, codes.SERVFAIL, "not synced yet", ())
        if request.qtype == codes.PTR and (ip := reverse_address(request.name)):
            return await self._reverse(request, zone, ip, kubernetes)
        return await self._service(request, zone, labels, kubernetes)

    def _hostname(self, request: Request, zone: str, kubernetes: Kubernetes) -> Response | None:
        """A name that an annotation or a host of an Ingress asks for."""
        owner = self.hostnames and self.hostnames.owner(request.name.rstrip("."))
        if not owner or self.hostnames is None:
            return None
        kind = codes.type_name(request.qtype)
        record = self.hostnames.find(owner, "CNAME") or self.hostnames.find(owner, kind)
        deps = (hostname_dep(owner), hostname_dep(request.name.rstrip(".")))
        if record is None or (record.type == "CNAME" and kind not in ("A", "AAAA", "CNAME")):
            why = f"{owner} has no {kind}"
            return self._nothing(zone, kubernetes, codes.NOERROR, why, deps)
        ttl = record.ttl or self.ttl
        answer = (
            [cname(request.qname, ttl, absolute(record.targets[0]))]
            if record.type == "CNAME"
            else [address(request.qname, ttl, target) for target in record.targets]
        )
        return self.reply(answer=answer, reason=record.resource, replay=Replay(deps))

    async def _reverse(
        self, request: Request, zone: str, ip: str, kubernetes: Kubernetes
    ) -> Response:
        """The Services that have an address outside, below the first zone."""
        if self._by_address is None:
            self._by_address = by_outer_address(kubernetes.cluster)
        keys = [k for k in self._by_address.get(ip, ()) if kubernetes.records.exposed(k.namespace)]
        if not keys:
            return await self._missing(request, zone, kubernetes, f"address {ip}", (ANY,))
        names = [below(f"{key.name}.{key.namespace}", self.zones[0]) for key in keys]
        answer = [ptr(request.qname, self.ttl, name) for name in names]
        why = ", ".join(f"Service {key}" for key in keys)
        return self.reply(answer=answer, reason=why, replay=Replay((ANY,)))

    async def _service(
        self, request: Request, zone: str, labels: list[str], kubernetes: Kubernetes
    ) -> Response:
        """``[_port._proto.|host.]svc.ns``."""
        namespace = labels[-1]
        deps: tuple[object, ...] = (namespace_dep(namespace),)
        if not kubernetes.records.exposed(namespace):
            return await self._missing(request, zone, kubernetes, f"namespace {namespace}", deps)
        if len(labels) == 1:
            return self._nothing(zone, kubernetes, codes.NOERROR, f"namespace {namespace}", deps)
        key = Key(namespace, labels[-2])
        deps = (*deps, service_dep(*key))
        external = self._external(kubernetes)
        entries = external.entries(key, labels[:-2], zone)
        if not entries:
            known = key in kubernetes.cluster.services
            why = f"Service {key} has no external address" if known else f"Service {key}"
            return await self._missing(request, zone, kubernetes, why, deps)
        found = external.found(request.qname, request.qtype, entries)
        if not found.answer:
            return self._nothing(zone, kubernetes, codes.NOERROR, f"Service {key}", deps)
        reply = self.reply(
            answer=found.answer, additional=found.additional, reason=f"Service {key}",
            replay=Replay(deps),
        )  # fmt: skip
        await _follow(request, found.outside, reply)
        return reply

    def _external(self, kubernetes: Kubernetes) -> External:
        return External(kubernetes.records, ttl=self.ttl, headless=self.headless)

    def _own(
        self, request: Request, zone: str, labels: list[str], kubernetes: Kubernetes
    ) -> Response:
        """The apex and the names of this server below ``dns.ZONE``."""
        apex = self._soa(zone, kubernetes)
        reply = self.reply(reason="the zone's own records", replay=Replay((ANY,)))
        match labels, request.qtype:
            case [], codes.SOA:
                reply.answer = [apex]
            case [], codes.NS:
                server, *addresses = self._servers(zone, kubernetes)
                reply.answer = [server]
                reply.additional = addresses
            case ["ns1", _], codes.A | codes.AAAA:
                _, *addresses = self._servers(zone, kubernetes)
                reply.answer = [
                    a.renamed(request.qname) for a in addresses if a.type == request.qtype
                ]
            case (([] | [_] | ["ns1", _]), _):
                pass
            case _:
                reply.rcode = codes.NXDOMAIN
        if not reply.answer:
            reply.authority = [apex]
        return reply

    def _servers(self, zone: str, kubernetes: Kubernetes) -> list[RR]:
        """The NS record, then the addresses of what it names."""
        name = below(f"ns1.{self.apex}", zone)
        addresses = self._external(kubernetes).server_addresses()
        return [ns(zone, self.ttl, name), *(address(name, self.ttl, ip) for ip in addresses)]

    def transfer(self, zone: str, serial: int) -> list[RR] | None:
        """Every record of a zone, SOA first and last; None: not ours."""
        kubernetes = self._kubernetes
        if zone not in self.zones or kubernetes is None or not kubernetes.cluster.synced:
            return None
        apex = self._soa(zone, kubernetes)
        if serial and serial >= kubernetes.cluster.modified:
            return [apex]
        listing = self._external(kubernetes).listing(zone)
        return [apex, *self._servers(zone, kubernetes), *listing, apex]

    async def _missing(
        self,
        request: Request,
        zone: str,
        kubernetes: Kubernetes,
        why: str,
        deps: tuple[object, ...],
    ) -> Response:
        if self.fall.through(request.name):
            response = await self.next.serve(request)
            if kept := response.replay:
                response.replay = Replay((*kept.deps, *deps), kept.until)
            return response
        why = f"{why}: nothing is known"
        return self._nothing(zone, kubernetes, codes.NXDOMAIN, why, deps)

    def _nothing(
        self, zone: str, kubernetes: Kubernetes, rcode: int, why: str, deps: tuple[object, ...]
    ) -> Response:
        replay = Replay(deps) if kubernetes.cluster.synced else None
        authority = [self._soa(zone, kubernetes)]
        return self.reply(rcode, authority=authority, reason=why, replay=replay)

    def _soa(self, zone: str, kubernetes: Kubernetes) -> RR:
        return soa(
            zone, self.ttl, below(f"ns1.{self.apex}", zone), below(f"hostmaster.{self.apex}", zone),
            kubernetes.cluster.modified, minimum=self.ttl,
        )  # fmt: skip


async def _follow(request: Request, outside: list[str], reply: Response) -> None:
    """Ask the whole server for the addresses of a load balancer's name."""
    if not outside or request.block is None:
        return
    reply.replay = None
    if request.qtype != codes.SRV:
        found = await request.block.lookup(request, outside[0], request.qtype)
        reply.answer = [*reply.answer, *found.answer]
        reply.tc = found.tc
        return
    for name in outside:
        for rtype in (codes.A, codes.AAAA):
            found = await request.block.lookup(request, name, rtype)
            reply.additional = [*reply.additional, *found.answer]


PLUGIN = K8sExternal
