"""What the nftables back end can spell."""

from kubewire.kubeproxy.proxier import Feature, Support

_WHY_NOT = {
    Feature.WEIGHTS: "an endpoint is chosen by an even random number; ipvs and envoy know weights",
    Feature.SCHEDULERS: "an endpoint is chosen by an even random number; ipvs has schedulers",
}

SUPPORT: Support = {feature: _WHY_NOT.get(feature, "") for feature in Feature}
