"""What the iptables back end can spell."""

from kubewire.kubeproxy.proxier import Feature, Support

_WHY_NOT = {
    Feature.REFUSE_UNKNOWN_PORT: "as kube-proxy's iptables mode: only ports that a Service has are looked at",
    Feature.DROP_UNALLOCATED: "as kube-proxy's iptables mode: only addresses that a Service has are looked at",
    Feature.WEIGHTS: "an endpoint is chosen by an even chance; ipvs and envoy know weights",
    Feature.SCHEDULERS: "an endpoint is chosen by an even chance; ipvs has schedulers",
}

SUPPORT: Support = {feature: _WHY_NOT.get(feature, "") for feature in Feature}
