"""Which route takes a request, and why the others do not: the same table that Envoy is given."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from kubewire.api.errors import InputError
from kubewire.api.meta import Key
from kubewire.api.service import Service
from kubewire.ingress.plan import Plan, Route


def explain(
    plan: Plan, services: Mapping[Key, Service], question: Mapping[str, Any]
) -> dict[str, Any]:
    """Answer one question: host, path, tls -> status or backend, rule. Raises InputError."""
    host = str(question.get("host", "")).lower().partition(":")[0]
    target = str(question.get("path") or "/")
    if not target.startswith("/"):
        raise InputError(f'path: must be absolute, not "{target}"')
    path = normal(target)
    rejected: list[dict[str, str]] = []
    for route in plan.routes:
        if why := _why_not(route, host, path):
            rejected.append({"rule": route.rule, "why": why})
            continue
        return _taken(route, services, target, question, rejected)
    return _answer(404, None, target, None, None, rejected)


def normal(target: str) -> str:
    """The path as Envoy compares it: decoded, without dots and doubled slashes, without the query."""
    path = unquote(target.partition("?")[0])
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith(("/", "/.", "/..")) and clean != "/" else clean


def _taken(
    route: Route,
    services: Mapping[Key, Service],
    target: str,
    question: Mapping[str, Any],
    rejected: list[dict[str, str]],
) -> dict[str, Any]:
    if route.https_redirect and not question.get("tls"):
        redirect = f"https://{question.get('host', '')}{target}"
        return _answer(308, None, target, redirect, route.rule, rejected)
    service = services.get(route.backend.service) if route.backend.service else None
    if service is None:
        return _answer(503, None, target, None, route.rule, rejected)
    return _answer(None, str(route.backend), target, None, route.rule, rejected)


def _why_not(route: Route, host: str, path: str) -> str:
    if not route.takes_host(host):
        return f'host "{host}" is not "{route.host}"'
    if not route.takes_path(path):
        kind = "Exact" if route.exact else "Prefix"
        return f'path "{path}" does not match {kind} "{route.path or "/"}"'
    return ""


def _answer(
    status: int | None,
    backend: str | None,
    path: str,
    redirect: str | None,
    rule: str | None,
    rejected: list[dict[str, str]],
) -> dict[str, Any]:
    return {
        "status": status,
        "backend": backend,
        "path": path,
        "redirect": redirect,
        "rule": rule,
        "rejected": rejected,
    }
