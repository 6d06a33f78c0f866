"""Spellings of a ServicePlan; they hold no semantics and never import each other.

A back end is a package ``NAME`` with ``compile`` (pure, with ``where``), ``proxier`` (a ``Proxier``),
``trace`` and ``support``. It is imported when its mode is asked for, not before: most of them need
programs or libraries that the others can do without.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from kubewire.api.errors import InputError
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend
from kubewire.kubeproxy.proxier import Lingers, Proxier, Support
from kubewire.kubeproxy.trace import Asker, Tracer

log = logging.getLogger(__name__)


class _Names(NamedTuple):
    """The classes of a back end, in its modules ``proxier`` and ``trace``."""

    proxier: str
    tracer: str


_BUILT = {
    "nftables": _Names("NftablesProxier", "NftablesTracer"),
    "ipvs": _Names("IpvsProxier", "IpvsTracer"),
    "iptables": _Names("IptablesProxier", "IptablesTracer"),
    "envoy": _Names("EnvoyProxier", "EnvoyTracer"),
}


def built() -> tuple[str, ...]:
    """The modes that have a back end."""
    return tuple(_BUILT)


def require(mode: str, source: str) -> None:
    """InputError, with the place that asked for it, if a mode has no back end."""
    if mode not in _BUILT:
        raise InputError(
            f"{source}: this proxy has no {mode} back end (it has {', '.join(_BUILT)})"
        )


def require_machine(mode: str, source: str) -> None:
    """InputError if this machine lacks what a mode needs in its kernel, or its programs.

    A back end that needs anything says so by a function ``lacking`` beside its proxier.
    """
    require(mode, source)
    module = importlib.import_module(f"{__name__}.{mode}.proxier")
    if lacking := getattr(module, "lacking", lambda: "")():
        raise InputError(f"{source}: {lacking}")


def proxier(config: Config, service_cidrs: Iterable[str] = (), **details: Any) -> Proxier:
    """The back end of the configured mode, for the current network namespace.

    ``details`` are the back end's own, for one that builds upon another. InputError if this machine
    lacks what it needs.
    """
    require(config.mode, "mode")
    found: Proxier = _part(config.mode, "proxier", _BUILT[config.mode].proxier)(
        config, service_cidrs, **details
    )
    return found


def tracer(mode: str, plan: Tracer) -> Asker:
    """The plan itself, or the rules that a mode makes from it."""
    if mode == "plan":
        return plan
    require(mode, "--mode")
    found: Asker = _part(mode, "trace", _BUILT[mode].tracer)(plan)
    return found


def support(mode: str) -> Support:
    """What a mode can spell, and why it cannot spell the rest."""
    require(mode, "mode")
    found: Support = _part(mode, "support", "SUPPORT")
    return found


def notes(mode: str) -> list[str]:
    """What is different with a mode: what it cannot do and why, and what users should know."""
    missing = [f"{feature}: {why}" for feature, why in support(mode).items() if why]
    module = importlib.import_module(f"{__name__}.{mode}.support")
    return [*getattr(module, "NOTES", ()), *missing]


def where(frontend: Frontend, config: Config) -> list[str]:
    """Where in the kernel the configured mode keeps a frontend, one line for each thing."""
    require(config.mode, "mode")
    spelled: Callable[[Frontend, Config], list[str]] = _part(config.mode, "compile", "where")
    return spelled(frontend, config)


def clear_others(mode: str, config: Config, *, patient: bool = False) -> bool:
    """Remove what other modes have left here; one that cannot work here has left nothing.

    ``patient``: what open connections need stays, and the answer is False until they have ended.
    """
    nothing_left = True
    for other, names in _BUILT.items():
        if other == mode:
            continue
        try:
            found = _part(other, "proxier", names.proxier)(config, ())
        except (InputError, OSError, ImportError) as error:
            log.debug("%s: nothing to remove: %s", other, error)
            continue
        try:
            if patient and isinstance(found, Lingers):
                nothing_left &= found.leave()
            else:
                found.clear()
        finally:
            found.close()
    return nothing_left


def _part(mode: str, module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{mode}.{module}"), name)
