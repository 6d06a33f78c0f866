"""What the IPVS back end can spell."""

from kubewire.kubeproxy.proxier import Feature, Support

_WHY_NOT = {
    Feature.LOCALHOST_NODE_PORTS: "IPVS sends nothing off the machine that comes from its loopback",
    Feature.DROP_UNALLOCATED: "only the addresses of Services lead to the node, as upstream",
}

SUPPORT: Support = {feature: _WHY_NOT.get(feature, "") for feature in Feature}
