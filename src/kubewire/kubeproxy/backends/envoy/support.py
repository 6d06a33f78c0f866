"""What the Envoy back end can spell."""

from kubewire.kubeproxy.proxier import Feature, Support

_WHY_NOT = {
    Feature.SCHEDULERS: "Envoy balances by least request; ipvs has schedulers",
}

SUPPORT: Support = {feature: _WHY_NOT.get(feature, "") for feature in Feature}

NOTES = (
    "UDP and SCTP Services stay in the kernel (nftables maps): Envoy carries TCP and HTTP",
    "Services with sessionAffinity stay in the kernel, too: its maps remember a client for timeoutSeconds, Envoy could not",
    "a client is accepted before an endpoint is: a refusal of the endpoint resets or ends the connection, or is a 503",
)
"""What users should know of it."""
