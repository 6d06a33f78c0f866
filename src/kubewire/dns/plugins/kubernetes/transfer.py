"""What a zone transfer of a cluster's zone holds: name servers, Services, headless endpoints."""

from collections.abc import Iterator, Mapping

from kubewire.api.meta import Key
from kubewire.dns.plugins.kubernetes.cluster import AnyService
from kubewire.dns.plugins.kubernetes.names import is_address
from kubewire.dns.plugins.kubernetes.objects import Port, Service
from kubewire.dns.plugins.kubernetes.records import Records
from kubewire.lang.dns.name import absolute
from kubewire.lang.dns.record import RR, address, cname, ns, srv


def records(source: Records, zone: str) -> Iterator[RR]:
    """Everything between the two SOA records."""
    servers = source.name_servers(zone)
    for name in dict.fromkeys(r.name for r in servers):
        yield ns(zone, source.options.ttl, name)
    yield from servers
    multicluster = zone in source.options.multicluster
    services: Mapping[Key, AnyService] = source.cluster.services
    if multicluster:
        services = source.cluster.imports
    for key, service in sorted(services.items(), key=lambda item: item[0].name):
        if source.exposed(key.namespace):
            yield from _service(source, zone, key, service, multicluster=multicluster)


def _service(
    source: Records, zone: str, key: Key, service: AnyService, *, multicluster: bool
) -> Iterator[RR]:
    ttl = source.options.ttl
    base = f"{key.name}.{key.namespace}.svc.{zone}"
    if service.external:
        assert isinstance(service, Service)
        if (target := service.spec.external_name) and not is_address(target):
            yield cname(base, ttl, absolute(target))
        return
    if service.ips:
        for ip in service.ips:
            yield address(base, ttl, ip)
        for port in service.ports:
            yield srv(base, ttl, 0, 100, port.port or 0, base)
            if port.name:
                yield srv(_port_name(port, base), ttl, 0, 100, port.port or 0, base)
        return
    index = source.cluster.import_slices if multicluster else source.cluster.slices
    for slice_ in index.get(key, {}).values() if source.options.endpoints else ():
        endpoints = [(e, ip) for e in slice_.ready for ip in e.addresses]
        weight = max(1, 100 // max(1, len(endpoints)))
        root = f"{slice_.cluster}.{base}" if multicluster else base
        for endpoint, ip in endpoints:
            host = f"{source.host_of(endpoint, ip)}.{root}"
            yield address(base, ttl, ip)
            yield address(host, ttl, ip)
            for port in slice_.ports or ():
                if port.name:
                    yield srv(_port_name(port, base), ttl, 0, weight, port.port or 0, host)


def _port_name(port: Port, base: str) -> str:
    return f"_{port.name}._{port.protocol or 'TCP'}.{base}".lower() if port.name else base
