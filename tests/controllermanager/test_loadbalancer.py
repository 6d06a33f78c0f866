"""Addresses of LoadBalancer Services: who gets which, and who is told that there is none."""

from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.controllermanager.actions import Event
from kubewire.controllermanager.loadbalancer import ADDRESSES, SHARING, Pool, plan

JSON = dict[str, Any]


def service(name: str, port: int = 80, *, held: tuple[str, ...] = (), age: int = 0, annotations: JSON | None = None, families: tuple[str, ...] = ("IPv4",), **spec: Any) -> JSON:  # fmt: skip
    ingress = [{"ip": ip, "ipMode": "VIP"} for ip in held]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "d",
            "uid": name,
            "annotations": annotations or {},
            "creationTimestamp": f"2026-01-01T00:00:{age:02}Z",
        },
        "spec": {
            "type": "LoadBalancer",
            "ipFamilies": list(families),
            "ports": [{"port": port, "protocol": "TCP"}],
            **spec,
        },
        "status": {"loadBalancer": {"ingress": ingress} if ingress else {}},
    }


def outcome(services: list[JSON], *pool: str) -> tuple[dict[str, list[str]], list[str]]:
    """(Service -> addresses that are set, warnings)."""
    given: dict[str, list[str]] = {}
    warnings = []
    for action in plan(services, Pool(pool)).actions:
        if isinstance(action, Event):
            if action.type == "Warning":
                warnings.append(f"{action.about['metadata']['name']}: {action.message}")
            continue
        status = getattr(action, "patch", None) or action.obj  # type: ignore[union-attr]
        name = action.key.name if hasattr(action, "key") else status["metadata"]["name"]
        ingress = (status["status"].get("loadBalancer") or {}).get("ingress") or []
        given[name] = [i["ip"] for i in ingress]
    return given, warnings


SHARED = {SHARING: "us"}
BOTH = ("IPv4", "IPv6")


@pytest.mark.parametrize(
    ("services", "pool", "given", "warnings"),
    [
        ([service("a"), service("b", age=1)], ["1.1.1.0/30"], {"a": ["1.1.1.1"], "b": ["1.1.1.2"]}, []),
        ([service("a"), service("b", age=1)], ["1.1.1.1"], {"a": ["1.1.1.1"]}, ["b: no free IPv4 address in the pool"]),
        ([service("a", families=BOTH)], ["1.1.1.1", "fd00::1-fd00::4"], {"a": ["1.1.1.1", "fd00::1"]}, []),
        ([service("a", families=BOTH, held=("1.1.1.1",))], ["1.1.1.1", "fd00::1"], {"a": ["1.1.1.1", "fd00::1"]}, []),
        ([service("a", loadBalancerIP="1.1.1.2")], ["1.1.1.0/30"], {"a": ["1.1.1.2"]}, []),
        ([service("a", loadBalancerIP="9.9.9.9")], ["1.1.1.0/30"], {}, ["a: 9.9.9.9 is not in the pool"]),
        ([service("a", loadBalancerIP="nine")], ["1.1.1.0/30"], {}, ["a: nine is not an IP address"]),
        ([service("a", loadBalancerIP="1.1.1.1"), service("b", 81, age=1, loadBalancerIP="1.1.1.1")], ["1.1.1.1"], {"a": ["1.1.1.1"], "b": ["1.1.1.1"]}, []),
        ([service("a", loadBalancerIP="1.1.1.1"), service("b", age=1, loadBalancerIP="1.1.1.1")], ["1.1.1.1"], {"a": ["1.1.1.1"]}, ["b: 1.1.1.1: port 80/TCP is taken by Service d/a"]),
        ([service("a", annotations=SHARED), service("b", 81, age=1, annotations=SHARED)], ["1.1.1.1"], {"a": ["1.1.1.1"], "b": ["1.1.1.1"]}, []),
        ([service("a", annotations=SHARED), service("b", 80, age=1, annotations=SHARED)], ["1.1.1.0/30"], {"a": ["1.1.1.1"], "b": ["1.1.1.2"]}, []),
        ([service("a", annotations=SHARED), service("b", 81, age=1, annotations={SHARING: "them"})], ["1.1.1.0/30"], {"a": ["1.1.1.1"], "b": ["1.1.1.2"]}, []),
        ([service("a", annotations=SHARED, externalTrafficPolicy="Local", selector={"a": "1"}), service("b", 81, age=1, annotations=SHARED, selector={"a": "2"})], ["1.1.1.0/30"], {"a": ["1.1.1.1"], "b": ["1.1.1.2"]}, []),
        ([service("a", families=BOTH, annotations={ADDRESSES: "1.1.1.2, fd00::2"})], ["1.1.1.0/30", "fd00::/126"], {"a": ["1.1.1.2", "fd00::2"]}, []),
        ([service("a", held=("1.1.1.1",), loadBalancerIP="1.1.1.2")], ["1.1.1.0/30"], {"a": ["1.1.1.2"]}, []),
        ([service("a", held=("1.1.1.1",))], ["1.1.1.0/30"], {}, []),
        ([service("a", loadBalancerClass="other")], ["1.1.1.1"], {}, []),
        ([service("a", loadBalancerClass="kubewire.dev/pool")], ["1.1.1.1"], {"a": ["1.1.1.1"]}, []),
        ([service("a", type="ClusterIP", held=("1.1.1.1",)), service("b", age=1)], ["1.1.1.1"], {"a": [], "b": ["1.1.1.1"]}, []),
    ],
)  # fmt: skip
def test_plan(
    services: list[JSON], pool: list[str], given: dict[str, list[str]], warnings: list[str]
) -> None:
    assert outcome(services, *pool) == (given, warnings)


@pytest.mark.parametrize("entry", ["x", "10.0.0.1-x", "10.0.0.1/24", "fd00::1-10.0.0.1"])
def test_a_bad_pool_is_named(entry: str) -> None:
    with pytest.raises(InputError, match="--lb-pool"):
        Pool([entry])
