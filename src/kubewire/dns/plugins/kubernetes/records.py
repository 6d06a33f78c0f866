"""Names to answers: the DNS-based service discovery specification 1.1 as a pure function.

``names`` has the forms of names. ``Records.lookup`` answers one question and says which objects it
read (``deps``), so that the answer's octets can be kept until one of those changes.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kubewire.api.meta import Key
from kubewire.dns.plugins.kubernetes.cluster import (
    ANY,
    AnyService,
    Cluster,
    address_dep,
    canonical,
    import_dep,
    namespace_dep,
    pod_dep,
    service_dep,
)
from kubewire.dns.plugins.kubernetes.names import Ask, dashed, dashed_address, is_address, parse
from kubewire.dns.plugins.kubernetes.objects import Endpoint, EndpointSlice, Port, Service
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute, is_reverse, reverse_address, within
from kubewire.lang.dns.record import RR, address, cname, ns, ptr, soa, srv, txt

VERSION = "1.1.0"
SERVER = "ns.dns."
"""Before a zone: the name of the server itself."""
VERSION_TTL = 28800
MAX_CNAMES = 10
NO_PORT = Port()
"""Stands in for the ports of a Service or slice without any: addresses, but no SRV."""


@dataclass(frozen=True)
class Options:
    """The options of the plugin that decide answers."""

    zones: tuple[str, ...] = ("cluster.local.",)
    ttl: int = 5
    pods: str = "disabled"
    endpoint_pod_names: bool = False
    endpoints: bool = True
    ignore_empty: bool = False
    namespaces: frozenset[str] = frozenset()
    multicluster: frozenset[str] = frozenset()
    zonal: bool = False

    @property
    def primary(self) -> str:
        """The first zone that is not a reverse one: where PTR records point."""
        return next(z for z in self.zones if not is_reverse(z))


@dataclass(slots=True)
class Found:
    """An answer without its header."""

    exists: bool = True
    """False: NXDOMAIN."""
    answer: list[RR] = field(default_factory=list)
    additional: list[RR] = field(default_factory=list)
    deps: set[Hashable] = field(default_factory=set)
    reason: str = ""
    outside: RR | None = None
    """A CNAME that leaves the zone: the caller follows it."""
    refused: bool = False


class Entry(NamedTuple):
    """One address and port behind a name, and the name that stands for it alone."""

    ip: str
    port: int | None
    host: str


class Records:
    """Answers of one plugin instance: a cluster seen through options."""

    def __init__(self, cluster: Cluster, options: Options) -> None:
        self.cluster = cluster
        self.options = options
        self.local_ips: tuple[str, ...] = ()
        """The server's own addresses, for NS."""

    def lookup(self, name: str, qname: str, zone: str, qtype: int) -> Found:
        """Answer a question; ``name`` is lower case, ``qname`` as spelled, ``zone`` ours."""
        spelled = qname[len(qname) - len(zone) :]
        match qtype:
            case codes.A | codes.AAAA:
                return self._addresses(name, qname, zone, spelled, qtype)
            case codes.SRV:
                return self._srv(name, qname, zone, spelled)
            case codes.PTR:
                return self._ptr(name, qname, zone)
            case codes.CNAME:
                found, _ = self._service(name, zone, spelled)
                if target := found.outside:
                    found.answer, found.outside = [target.renamed(qname)], None
                return found
            case codes.SOA if name == zone:
                return Found(answer=[self.soa(spelled)], deps={ANY}, reason="the zone's own SOA")
            case codes.SOA:
                return Found(reason="there is one SOA record, at the zone's apex")
            case codes.NS if name == zone:
                return self._ns(qname, spelled)
            case codes.TXT:
                return self._txt(name, qname, zone, spelled)
            case codes.AXFR | codes.IXFR:
                return Found(refused=True, reason="zone transfers are the transfer plugin's")
        found, _ = self._service(name, zone, spelled)
        found.outside = None
        return found

    def soa(self, zone: str) -> RR:
        """The SOA record, under the zone as the client spelled it."""
        ttl = self.options.ttl
        return soa(
            zone, min(ttl, 300), f"ns.dns.{zone}", f"hostmaster.{zone}",
            self.cluster.modified, minimum=ttl,
        )  # fmt: skip

    # Names

    def _addresses(self, name: str, qname: str, zone: str, spelled: str, qtype: int) -> Found:
        if name.startswith(SERVER) and name == SERVER + zone:
            ours = [r.renamed(qname) for r in self.name_servers(spelled)]
            return Found(
                answer=[r for r in ours if r.type == qtype], deps={ANY}, reason="this server"
            )
        found, entries = self._service(name, zone, spelled)
        if found.outside is not None:
            self._follow(found, name, qname, zone, qtype)
        v6 = qtype == codes.AAAA
        ips = dict.fromkeys(e.ip for e in entries if (":" in e.ip) == v6)
        found.answer += [address(qname, self.options.ttl, ip) for ip in ips]
        return found

    def _follow(self, found: Found, name: str, qname: str, zone: str, qtype: int) -> None:
        """Follow an ExternalName as long as it stays in the zone."""
        chain: list[RR] = []
        seen = {name}
        current, owner = found.outside, qname
        found.outside = None
        while current is not None:
            link = current.renamed(owner)
            target = link.target.lower()
            if within(target, name) or target in seen or len(chain) >= MAX_CNAMES:
                found.reason += "; its chain of names is a loop or too long"
                return
            seen.add(target)
            chain.append(link)
            if not within(target, zone):
                found.answer, found.outside = chain, link
                return
            owner, name = link.target, target
            more, entries = self._service(name, zone, owner[len(owner) - len(zone) :])
            found.deps |= more.deps
            current = more.outside
            v6 = qtype == codes.AAAA
            ips = dict.fromkeys(e.ip for e in entries if (":" in e.ip) == v6)
            if ips:
                found.answer = [*chain, *(address(owner, self.options.ttl, ip) for ip in ips)]

    def _srv(self, name: str, qname: str, zone: str, spelled: str) -> Found:
        found, entries = self._service(name, zone, spelled)
        found.outside = None
        if not entries:
            return found
        weight = max(1, int(100.0 / (100 * len(entries)) * 100))
        ttl = self.options.ttl
        records: dict[tuple[str, int], RR] = {}
        extra: dict[tuple[str, str], RR] = {}
        for ip, port, host in entries:
            if port is None:
                continue
            if (host, port) not in records:
                records[host, port] = srv(qname, ttl, 0, weight, port, host)
            if (host, ip) not in extra:
                extra[host, ip] = address(host, ttl, ip)
        found.answer, found.additional = list(records.values()), list(extra.values())
        return found

    def _txt(self, name: str, qname: str, zone: str, spelled: str) -> Found:
        if name == f"dns-version.{zone}":
            return Found(
                answer=[txt(qname, VERSION_TTL, VERSION)], reason="version of the DNS schema"
            )
        found, entries = self._service(name, zone, spelled)
        if found.exists and not entries and found.outside is None and not self._zonal(name, zone):
            found.exists = False
            found.reason += "; without records of its own the name has no TXT either"
        found.outside = None
        return found

    def _zonal(self, name: str, zone: str) -> bool:
        return self.options.zonal and parse(name, zone, zonal=True).area != ""

    def _ptr(self, name: str, qname: str, zone: str) -> Found:
        ip = reverse_address(name)
        if not ip:
            found, _ = self._service(name, zone, zone)
            found.outside = None
            return found
        found = Found(deps={address_dep(ip)})
        options, cluster = self.options, self.cluster
        for key in cluster.cluster_ips.get(ip, ()):
            if self._hidden(key.namespace, found):
                continue
            target = f"{key.name}.{key.namespace}.svc.{options.primary}"
            found.answer = [ptr(qname, options.ttl, target)]
            found.reason = f"clusterIP of Service {key}"
            return found
        targets = dict.fromkeys(self._reverse_endpoints(ip, found))
        found.answer = [ptr(qname, options.ttl, t) for t in targets]
        found.exists = bool(targets)
        found.reason = (
            "address of an endpoint" if targets else f"no Service and no endpoint has {ip}"
        )
        return found

    def _hidden(self, namespace: str, found: Found) -> bool:
        if not self.options.namespaces:
            return False
        found.deps.add(namespace_dep(namespace))
        return not self.exposed(namespace)

    def _reverse_endpoints(self, ip: str, found: Found) -> Iterator[str]:
        if not self.options.endpoints:
            return
        for key in self.cluster.endpoint_ips.get(ip, ()):
            if self._hidden(key.namespace, found):
                continue
            for slice_ in self.cluster.slices.get(key, {}).values():
                for endpoint in slice_.ready:
                    if ip in map(canonical, endpoint.addresses):
                        host = self.host_of(endpoint, ip)
                        yield f"{host}.{key.name}.{key.namespace}.svc.{self.options.primary}"

    def _ns(self, qname: str, spelled: str) -> Found:
        found = Found(deps={ANY}, reason="name servers of the zone")
        found.additional = self.name_servers(spelled)
        names = dict.fromkeys(r.name for r in found.additional)
        found.answer = [ns(qname, self.options.ttl, n) for n in names]
        return found

    def name_servers(self, zone: str) -> list[RR]:
        """Services whose endpoints hold an address of this server, else the addresses."""
        cluster, ttl = self.cluster, self.options.ttl
        found: dict[tuple[str, str], RR] = {}
        seen = False
        for own in self.local_ips:
            for key in cluster.endpoint_ips.get(own, ()):
                seen = True
                service = cluster.services.get(key)
                if service is None:
                    continue
                host = f"{key.name}.{key.namespace}.svc.{zone}"
                pairs = [(host, ip) for ip in service.ips]
                if service.headless:
                    pairs = [
                        (f"{self.host_of(e, a)}.{host}", a)
                        for s in cluster.slices.get(key, {}).values()
                        for e in s.ready
                        for a in e.addresses
                    ]
                found |= {pair: address(pair[0], ttl, pair[1]) for pair in pairs}
        if not seen:
            found = {("", ip): address(f"ns.dns.{zone}", ttl, ip) for ip in self.local_ips}
        return list(found.values())

    # Objects

    def _service(self, name: str, zone: str, spelled: str) -> tuple[Found, list[Entry]]:
        """What stands behind a name, whatever type is asked for."""
        multicluster = zone in self.options.multicluster
        ask = parse(name, zone, multicluster=multicluster, zonal=self.options.zonal)
        if name.startswith(SERVER) and name == SERVER + zone:
            return Found(deps={ANY}, reason="this server has addresses only"), []
        if not ask.valid:
            return Found(exists=False, reason="the name has none of the forms that exist"), []
        if not ask.kind:
            return Found(reason="the name exists and holds no records"), []
        if is_reverse(name):
            return Found(exists=False, reason="not the reverse name of an address"), []
        found = Found(deps={namespace_dep(ask.namespace)})
        if not self.exposed(ask.namespace):
            found.exists = False
            found.reason = f"namespace {ask.namespace} does not exist or is not exposed"
            return found, []
        if ask.kind == "pod":
            return found, self._pod(ask, found)
        if not ask.service:
            found.reason = f"namespace {ask.namespace} exists; the name holds no records"
            return found, []
        return found, self._behind(ask, spelled, found, multicluster=multicluster)

    def exposed(self, namespace: str) -> bool:
        """Tell whether a namespace exists and is let through."""
        chosen = self.options.namespaces
        return (not chosen or namespace in chosen) and namespace in self.cluster.namespaces

    def _pod(self, ask: Ask, found: Found) -> list[Entry]:
        if self.options.pods == "disabled":
            found.exists, found.reason = False, "pod names are disabled"
            return []
        if not ask.service:
            found.reason = f"namespace {ask.namespace} exists; the name holds no records"
            return []
        ip = dashed_address(ask.service)
        if not ip:
            found.exists, found.reason = False, f"{ask.service} is not a dashed address"
            return []
        if self.options.pods == "verified":
            found.deps.add(pod_dep(ask.namespace, ip))
            if not self.cluster.pods.get((ask.namespace, ip)):
                found.exists = False
                found.reason = f"no running pod of namespace {ask.namespace} has {ip}"
                return []
            found.reason = f"a pod of namespace {ask.namespace} has {ip}"
        else:
            found.reason = "pods insecure: read from the name"
        return [Entry(ip, None, "")]

    def _behind(self, ask: Ask, spelled: str, found: Found, *, multicluster: bool) -> list[Entry]:
        cluster = self.cluster
        key = Key(ask.namespace, ask.service)
        kind = "ServiceImport" if multicluster else "Service"
        found.deps.add((import_dep if multicluster else service_dep)(*key))
        service: AnyService | None = (
            cluster.imports.get(key) if multicluster else cluster.services.get(key)
        )
        if service is None:
            found.exists, found.reason = False, f"{kind} {key} does not exist"
            return []
        index = cluster.import_slices if multicluster else cluster.slices
        slices = list(index.get(key, {}).values()) if self.options.endpoints else []
        found.reason = f"{kind} {key}"
        if service.external:
            assert isinstance(service, Service)
            return self._external(ask, service, found)
        if self.options.ignore_empty and not service.headless and not any(s.ready for s in slices):
            found.exists = False
            found.reason += " has no ready endpoint (ignore empty_service)"
            return []
        if ask.area and not service.headless:
            found.exists = False
            found.reason += " is not headless, so it has no zones"
            return []
        base = f"{key.name}.{key.namespace}.svc.{spelled}"
        if service.headless or ask.endpoint:
            entries = list(self._endpoints(ask, slices, base, multicluster=multicluster))
            if not entries and ask.prefer:
                everywhere = ask._replace(area="")
                entries = list(self._endpoints(everywhere, slices, base, multicluster=False))
            found.exists = bool(entries) or bool(ask.area)
            if not entries:
                what = f"endpoint {ask.endpoint}" if ask.endpoint else "ready endpoint that fits"
                found.reason += f" has no {what}"
            return entries
        ports = [p for p in service.ports or (NO_PORT,) if _fits(ask, p)]
        found.exists = bool(ports)
        if not ports:
            found.reason += f" has no port {ask.port}/{ask.protocol}"
        return [Entry(ip, p.port, base) for p in ports for ip in service.ips]

    def _external(self, ask: Ask, service: Service, found: Found) -> list[Entry]:
        target = service.spec.external_name
        found.reason += f" is an ExternalName for {target}"
        below = ask.endpoint or ask.port or ask.protocol or ask.area
        if below or not target or is_address(target):
            found.exists = False
            found.reason += ", which has nothing below it" if below else ", which is no name"
            return []
        found.outside = cname("", self.options.ttl, absolute(target))
        return []

    def _endpoints(
        self, ask: Ask, slices: Sequence[EndpointSlice], base: str, *, multicluster: bool
    ) -> Iterator[Entry]:
        for slice_ in slices:
            if multicluster and ask.endpoint and ask.cluster != slice_.cluster.lower():
                continue
            root = f"{slice_.cluster}.{base}" if multicluster else base
            ports = [p for p in slice_.ports or (NO_PORT,) if _fits(ask, p)]
            for endpoint in slice_.ready if ports else ():
                if ask.area and (endpoint.zone or "").lower() != ask.area:
                    continue
                for ip in endpoint.addresses:
                    host = self.host_of(endpoint, ip)
                    if ask.endpoint and ask.endpoint != host.lower():
                        continue
                    for port in ports:
                        yield Entry(ip, port.port, f"{host}.{root}")

    def host_of(self, endpoint: Endpoint, ip: str) -> str:
        """The label of one endpoint below its Service."""
        if endpoint.hostname:
            return endpoint.hostname
        if self.options.endpoint_pod_names and endpoint.target_ref:
            name = endpoint.target_ref.name
            if name and len(name) < 64:
                return name
        return dashed(ip)


def _fits(ask: Ask, port: Port) -> bool:
    return (not ask.port or ask.port == (port.name or "").lower()) and (
        not ask.protocol or ask.protocol == (port.protocol or _default(port)).lower()
    )


def _default(port: Port) -> str:
    return "" if port is NO_PORT else "TCP"


__all__ = ["Found", "Options", "Records"]
