"""k8s_external: external addresses of Services under a zone of the outside world."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from kubewire.api.meta import Key
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Fallthrough, Plugin, Replay, Request, Response, Setup
from kubewire.dns.plugins.k8s_external.hostnames import Hostnames, hostname_dep
from kubewire.dns.plugins.kubernetes import Kubernetes
from kubewire.dns.plugins.kubernetes.cluster import ANY, namespace_dep, service_dep
from kubewire.dns.plugins.kubernetes.objects import Service
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, longest_zone, relative, split
from kubewire.lang.dns.record import RR, address, cname, ns, soa, srv


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
        if self.hostnames is None or kubernetes is None or self._env.offline:
            return
        from kubewire.dns.plugins.kubernetes.watch import connect

        source = kubernetes.source
        agent = f"{source.agent or 'dns'}/hostnames"
        await self.hostnames.start(connect(source), agent, source.startup_timeout)

    async def stop(self, *, final: bool) -> None:
        """Stop to watch."""
        if self.hostnames is not None:
            await self.hostnames.stop()

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
        spelled = request.qname[len(request.qname) - len(zone) :]
        if reply := self._hostname(request, spelled, kubernetes):
            return reply
        labels = split(relative(request.name, zone))
        if not labels or labels[-1] == self.apex:
            return self._own(request, zone, spelled, labels, kubernetes)
        if not kubernetes.cluster.synced:
            return self._nothing(request, spelled, kubernetes, codes.SERVFAIL, "not synced yet", ())
        return await self._service(request, spelled, labels, kubernetes)

    def _hostname(self, request: Request, spelled: str, kubernetes: Kubernetes) -> Response | None:
        """A name that an annotation or a host of an Ingress asks for."""
        owner = self.hostnames and self.hostnames.owner(request.name.rstrip("."))
        if not owner or self.hostnames is None:
            return None
        kind = codes.type_name(request.qtype)
        record = self.hostnames.find(owner, "CNAME") or self.hostnames.find(owner, kind)
        deps = (hostname_dep(owner), hostname_dep(request.name.rstrip(".")))
        if record is None or (record.type == "CNAME" and kind not in ("A", "AAAA", "CNAME")):
            why = f"{owner} has no {kind}"
            return self._nothing(request, spelled, kubernetes, codes.NOERROR, why, deps)
        ttl = record.ttl or self.ttl
        answer = (
            [cname(request.qname, ttl, absolute(record.targets[0]))]
            if record.type == "CNAME"
            else [address(request.qname, ttl, target) for target in record.targets]
        )
        return self.reply(answer=answer, reason=record.resource, replay=Replay(deps))

    async def _service(
        self, request: Request, spelled: str, labels: list[str], kubernetes: Kubernetes
    ) -> Response:
        """``[_port._proto.|host.]svc.ns``."""
        namespace = labels[-1]
        deps: tuple[object, ...] = (namespace_dep(namespace),)
        if not kubernetes.records.exposed(namespace):
            return await self._missing(request, spelled, kubernetes, f"namespace {namespace}", deps)
        if len(labels) == 1:
            return self._nothing(
                request, spelled, kubernetes, codes.NOERROR, f"namespace {namespace}", deps
            )
        key = Key(namespace, labels[-2])
        deps = (*deps, service_dep(*key))
        service = kubernetes.cluster.services.get(key)
        entries = list(self._entries(service, key, labels[:-2], spelled, kubernetes))
        if service is None or not entries:
            why = f"Service {key} has no external address" if service else f"Service {key}"
            return await self._missing(request, spelled, kubernetes, why, deps)
        answer, extra = self._records(request, entries, kubernetes)
        if not answer:
            return self._nothing(
                request, spelled, kubernetes, codes.NOERROR, f"Service {key}", deps
            )
        return self.reply(
            answer=answer, additional=extra, reason=f"Service {key}", replay=Replay(deps)
        )

    def _entries(
        self,
        service: Service | None,
        key: Key,
        below: list[str],
        zone: str,
        kubernetes: Kubernetes,
    ) -> Iterator[tuple[str, int | None, str]]:
        """(address or host name, port, name of the target)."""
        if service is None or len(below) > 2:
            return
        base = f"{key.name}.{key.namespace}.{zone}"
        if service.headless and self.headless and kubernetes.options.endpoints:
            yield from self._headless(key, below, base, kubernetes)
            return
        if len(below) == 1 or service.headless:
            return
        for port in service.ports:
            if below and not _fits(below, port.name, port.protocol):
                continue
            for target in service.outside:
                yield target, port.port, base

    def _headless(
        self, key: Key, below: list[str], base: str, kubernetes: Kubernetes
    ) -> Iterator[tuple[str, int | None, str]]:
        for slice_ in kubernetes.cluster.slices.get(key, {}).values():
            for endpoint in slice_.ready:
                for ip in endpoint.addresses:
                    host = kubernetes.records.host_of(endpoint, ip)
                    if len(below) == 1 and below[0] != host.lower():
                        continue
                    if not slice_.ports and len(below) < 2:
                        yield ip, None, f"{host}.{base}"
                    for port in slice_.ports or ():
                        if len(below) == 2 and not _fits(below, port.name, port.protocol):
                            continue
                        yield ip, port.port, f"{host}.{base}"

    def _records(
        self, request: Request, entries: list[tuple[str, int | None, str]], kubernetes: Kubernetes
    ) -> tuple[list[RR], list[RR]]:
        own = kubernetes.options.ttl
        if request.qtype == codes.SRV:
            entries = [e for e in entries if e[1] is not None]
            weight = max(1, 100 // max(1, len(entries)))
            answer: dict[tuple[str, int], RR] = {}
            extra: dict[tuple[str, str], RR] = {}
            for target, port, host in entries:
                name = host if _is_ip(target) else absolute(target)
                answer.setdefault(
                    (name, port or 0), srv(request.qname, own, 0, weight, port or 0, name)
                )
                if _is_ip(target):
                    extra.setdefault((name, target), address(name, self.ttl, target))
            return list(answer.values()), list(extra.values())
        names = dict.fromkeys(t for t, _, _ in entries if not _is_ip(t))
        if names and request.qtype in (codes.A, codes.AAAA, codes.CNAME):
            return [cname(request.qname, own, absolute(next(iter(names))))], []
        v6 = request.qtype == codes.AAAA
        wanted = request.qtype in (codes.A, codes.AAAA)
        ips = dict.fromkeys(t for t, _, _ in entries if wanted and (":" in t) == v6 and _is_ip(t))
        return [address(request.qname, self.ttl, ip) for ip in ips], []

    def _own(
        self, request: Request, zone: str, spelled: str, labels: list[str], kubernetes: Kubernetes
    ) -> Response:
        """The apex and the names of this server below ``dns.ZONE``."""
        apex = self._soa(spelled, kubernetes)
        server = f"ns1.{self.apex}.{spelled}"
        addresses = [address(server, self.ttl, ip) for ip in self._server_ips(kubernetes)]
        reply = self.reply(reason="the zone's own records", replay=Replay((ANY,)))
        match labels, request.qtype:
            case [], codes.SOA:
                reply.answer = [apex]
            case [], codes.NS:
                reply.answer = [ns(request.qname, self.ttl, server)]
                reply.additional = addresses
            case ["ns1", _], codes.A | codes.AAAA:
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

    def _server_ips(self, kubernetes: Kubernetes) -> list[str]:
        """External addresses of the Services that lead to this server, else its own."""
        found: list[str] = []
        for own in kubernetes.records.local_ips:
            for key in kubernetes.cluster.endpoint_ips.get(own, ()):
                service = kubernetes.cluster.services.get(key)
                found += [ip for ip in (service.outside if service else ()) if _is_ip(ip)]
        return list(dict.fromkeys(found)) or list(kubernetes.records.local_ips)

    async def _missing(
        self,
        request: Request,
        spelled: str,
        kubernetes: Kubernetes,
        why: str,
        deps: tuple[object, ...],
    ) -> Response:
        if self.fall.through(request.name):
            return await self.next.serve(request)
        return self._nothing(
            request, spelled, kubernetes, codes.NXDOMAIN, f"{why}: nothing is known", deps
        )

    def _nothing(
        self,
        request: Request,
        spelled: str,
        kubernetes: Kubernetes,
        rcode: int,
        why: str,
        deps: tuple[object, ...],
    ) -> Response:
        replay = Replay(deps) if kubernetes.cluster.synced else None
        authority = [self._soa(spelled, kubernetes)]
        return self.reply(rcode, authority=authority, reason=why, replay=replay)

    def _soa(self, zone: str, kubernetes: Kubernetes) -> RR:
        return soa(
            zone, self.ttl, f"ns1.{self.apex}.{zone}", f"hostmaster.{self.apex}.{zone}",
            kubernetes.cluster.modified, minimum=self.ttl,
        )  # fmt: skip


def _fits(below: list[str], name: str | None, protocol: str | None) -> bool:
    port, proto = below[0].removeprefix("_"), below[1].removeprefix("_")
    return port == (name or "").lower() and proto == (protocol or "TCP").lower()


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


PLUGIN = K8sExternal
