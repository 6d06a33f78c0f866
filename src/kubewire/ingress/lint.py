"""What becomes of an Ingress's annotations: which act here, which do not, and why.

Only annotations that speak to an Ingress controller are judged; all others are none of its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubewire.api.ingress import CLASS_ANNOTATION, Ingress
from kubewire.api.meta import JSON
from kubewire.ingress.plan import SSL_REDIRECT

PREFIXES = (
    "nginx.ingress.kubernetes.io/",
    "nginx.org/",
    "haproxy.org/",
    "haproxy-ingress.github.io/",
    "traefik.ingress.kubernetes.io/",
    "ingress.kubernetes.io/",
)
"""Of Ingress controllers; kubewire has only what CLASS_ANNOTATION and SSL_REDIRECT name."""

RAW = ("snippet", "snippets", "stream-snippet", "template")
"""How names of annotations end that put text into a proxy's configuration."""


def lint(ingresses: Iterable[Ingress]) -> list[JSON]:
    """One record for each annotation that speaks to an Ingress controller."""
    return [
        {
            "ingress": str(ingress.key),
            "annotation": name,
            "value": value,
            "verdict": verdict,
            "why": why,
        }
        for ingress in ingresses
        for name, value, verdict, why in _judged(ingress)
    ]


def _judged(ingress: Ingress) -> Iterator[tuple[str, str, str, str]]:
    for name, value in sorted(ingress.annotations.items()):
        if name == CLASS_ANNOTATION:
            yield name, value, "supported", "names the class, and wins over spec.ingressClassName"
        elif name in SSL_REDIRECT:
            yield name, value, *_redirect(ingress, value)
        elif name.startswith(PREFIXES):
            yield name, value, "refused", _refusal(name)


def _redirect(ingress: Ingress, value: str) -> tuple[str, str]:
    if value == "false":
        return "translated", "nothing to do: without the annotation nothing is redirected"
    if value != "true":
        return "refused", f'"{value}" is neither true nor false: nothing is redirected'
    hosts = sorted({host for tls in ingress.spec.tls for host in tls.hosts})
    if not hosts:
        return "refused", "no host in spec.tls has a certificate: nothing is redirected"
    return "translated", f"plain requests for {', '.join(hosts)} are answered with 308 to https"


def _refusal(name: str) -> str:
    if name.endswith(RAW):
        return "raw configuration text can take over a proxy, so none is ever accepted"
    return "nothing here acts on it"
