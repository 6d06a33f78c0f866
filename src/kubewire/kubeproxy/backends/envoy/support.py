"""What the Envoy back end can spell."""

from kubewire.kubeproxy.proxier import Feature, Support

_WHY_NOT = {
    Feature.DETECT_BRIDGE: "the rules know pods by their addresses; use ClusterCIDR or NodeCIDR",
    Feature.DETECT_PREFIX: "the rules know pods by their addresses; use ClusterCIDR or NodeCIDR",
    Feature.WEIGHTS: "the plan has no weights yet; Envoy does",
}

SUPPORT: Support = {feature: _WHY_NOT.get(feature, "") for feature in Feature}
