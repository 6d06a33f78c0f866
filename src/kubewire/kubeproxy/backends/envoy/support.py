"""What the Envoy back end can spell."""

from kubewire.kubeproxy.proxier import Feature, Support

_WHY_NOT = {
    Feature.SCHEDULERS: "Envoy balances by least request, by a hash of the client with affinity; ipvs has schedulers",
}

SUPPORT: Support = {feature: _WHY_NOT.get(feature, "") for feature in Feature}
