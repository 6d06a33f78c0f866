"""grpc_server: how many connections a grpc:// listener holds, and streams a connection."""

from __future__ import annotations

from kubewire.dns.limits import Limits


class GrpcServer(Limits):
    """Limits of gRPC listeners."""

    name = "grpc_server"
    properties = ("max_streams", "max_connections")
    unlimited = frozenset({"max_streams", "max_connections"})


PLUGIN = GrpcServer
