"""What stands behind the external name of a Service: pure, from what the kubernetes plugin knows.

svc.ns.ZONE                  externalIPs and load balancers; headless: endpoints
host.svc.ns.ZONE             one endpoint, of ClusterIP Services too (option headless)
_port._proto.svc.ns.ZONE     SRV records
4.3.2.1.in-addr.arpa         the Services that have this address outside
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kubewire.api.meta import Key
from kubewire.dns.plugins.kubernetes.cluster import Cluster, canonical
from kubewire.dns.plugins.kubernetes.names import is_address
from kubewire.dns.plugins.kubernetes.objects import Port, Service
from kubewire.dns.plugins.kubernetes.records import Records
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import absolute
from kubewire.lang.dns.record import RR, address, cname, srv


class Entry(NamedTuple):
    """An address or the host name of a load balancer, a port, and the name that stands for both."""

    target: str
    port: int | None
    host: str


@dataclass
class Found:
    """Records, and host names whose addresses belong to them."""

    answer: list[RR] = field(default_factory=list)
    additional: list[RR] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


class External:
    """Names of Services below one zone."""

    def __init__(self, source: Records, *, ttl: int, headless: bool) -> None:
        self._source = source
        self._ttl = ttl
        self._headless = headless

    def entries(self, key: Key, before: list[str], zone: str) -> list[Entry]:
        """Everything behind ``before`` (labels in front of the Service)."""
        service = self._source.cluster.services.get(key)
        if service is None or len(before) > 2:
            return []
        base = below(f"{key.name}.{key.namespace}", zone)
        wanted = before if len(before) == 2 else ["", ""]
        host = before[0].removeprefix("_") if len(before) == 1 else ""
        if self._headless and not service.outside and (service.headless or host):
            return list(self._endpoints(key, wanted, host, base))
        ports = [p for p in service.ports if _fits(wanted, p)]
        return [Entry(target, p.port, base) for target in service.outside for p in ports]

    def _endpoints(self, key: Key, wanted: list[str], host: str, base: str) -> Iterator[Entry]:
        source = self._source
        slices = source.cluster.slices.get(key, {}) if source.options.endpoints else {}
        for slice_ in slices.values():
            for endpoint in slice_.ready:
                for ip in endpoint.addresses:
                    name = source.host_of(endpoint, ip)
                    if host and host != name.lower():
                        continue
                    if not slice_.ports and not wanted[0]:
                        yield Entry(ip, None, f"{name}.{base}")
                    for port in slice_.ports or ():
                        if _fits(wanted, port):
                            yield Entry(ip, port.port, f"{name}.{base}")

    def found(self, qname: str, qtype: int, entries: list[Entry]) -> Found:
        """Records of one type."""
        if qtype == codes.SRV:
            return self._srv(qname, entries)
        names = [e.target for e in entries if not is_address(e.target)]
        if names and qtype in (codes.A, codes.AAAA, codes.CNAME):
            link = cname(qname, self._source.options.ttl, absolute(names[0]))
            return Found([link], outside=[link.target] if qtype != codes.CNAME else [])
        v6 = qtype == codes.AAAA
        ips = [e.target for e in entries if is_address(e.target) and (":" in e.target) == v6]
        if qtype not in (codes.A, codes.AAAA):
            ips = []
        return Found([address(qname, self._ttl, ip) for ip in dict.fromkeys(ips)])

    def _srv(self, qname: str, entries: list[Entry]) -> Found:
        weight = max(1, 100 // max(1, len(entries)))
        ttl = self._source.options.ttl
        answer: dict[tuple[str, int], RR] = {}
        extra: dict[tuple[str, str], RR] = {}
        outside: list[str] = []
        for target, port, host in entries:
            if port is None:
                continue
            known = is_address(target)
            name = host if known else absolute(target)
            answer.setdefault((name, port), srv(qname, ttl, 0, weight, port, name))
            if known:
                extra.setdefault((name, target), address(name, self._ttl, target))
            elif name not in outside:
                outside.append(name)
        return Found(list(answer.values()), list(extra.values()), outside)

    def server_addresses(self) -> list[str]:
        """Outer addresses of the Services that lead to this server; of none: its own."""
        source, found, led = self._source, [], False
        for own in source.local_ips:
            for key in source.cluster.endpoint_ips.get(own, ()):
                led = True
                service = source.cluster.services.get(key)
                if service is None:
                    continue
                if self._headless and service.headless:
                    found += [e.target for e in self._endpoints(key, ["", ""], "", "")]
                else:
                    found += [ip for ip in service.outside if is_address(ip)]
        return list(dict.fromkeys(found)) if led else list(source.local_ips)

    def listing(self, zone: str) -> Iterator[RR]:
        """Every Service for a zone transfer."""
        services = self._source.cluster.services
        for key, service in sorted(services.items()):
            if not self._source.exposed(key.namespace):
                continue
            base = below(f"{key.name}.{key.namespace}", zone)
            entries = self.entries(key, [], zone)
            yield from self._list(base, entries)
            for port in self._ports(key, service):
                name = f"_{port.name}._{port.protocol or 'TCP'}".lower()
                fitting = self.entries(key, name.split("."), zone)
                yield from self._srv(f"{name}.{base}", fitting).answer
            if not service.outside:
                for host in dict.fromkeys(e.host for e in entries):
                    yield from self._list(host, [e for e in entries if e.host == host])

    def _list(self, name: str, entries: list[Entry]) -> Iterator[RR]:
        alias = self.found(name, codes.CNAME, entries).answer
        if alias:
            # Nothing else may stand beside a CNAME.
            yield from alias
            return
        for rtype in (codes.A, codes.AAAA, codes.SRV):
            yield from self.found(name, rtype, entries).answer

    def _ports(self, key: Key, service: Service) -> Iterable[Port]:
        ports = list(service.ports)
        if not service.outside:
            slices = self._source.cluster.slices.get(key, {}).values()
            ports = [p for s in slices for p in s.ports or ()]
        named = {(p.name, p.protocol or "TCP"): p for p in ports if p.name}
        return named.values()


def below(name: str, zone: str) -> str:
    """A name in a zone, which may be the root."""
    return f"{name}." if zone == "." else f"{name}.{zone}"


def by_outer_address(cluster: Cluster) -> dict[str, list[Key]]:
    """Address -> the Services that have it outside."""
    index: dict[str, list[Key]] = {}
    for key, service in cluster.services.items():
        for ip in dict.fromkeys(canonical(t) for t in service.outside if is_address(t)):
            index.setdefault(ip, []).append(key)
    return index


def _fits(wanted: list[str], port: Port) -> bool:
    name, protocol = (label.removeprefix("_") for label in wanted)
    return (not name or name == (port.name or "").lower()) and (
        not protocol or protocol == (port.protocol or "TCP").lower()
    )
