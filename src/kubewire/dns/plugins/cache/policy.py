"""What is kept, how long, and what happens to it afterwards, as the Corefile says."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Setup, duration
from kubewire.lang.dns.name import normalize

CAPACITY = 9984


@dataclass
class Policy:
    """Options of the plugin."""

    zones: list[str]
    success: tuple[int, float, float] = (CAPACITY, 3600, 5)
    """Capacity, longest and shortest life."""
    denial: tuple[int, float, float] = (CAPACITY, 1800, 5)
    servfail: float = 5
    prefetch: int = 0
    prefetch_for: float = 60
    prefetch_percent: int = 10
    stale: float = 0
    stale_ttl: float = 0
    recheck: float = 0
    """Seconds after which to ask again for what could not be refreshed."""
    verify: bool = False
    verify_for: float = 0
    """Seconds to wait for a fresh answer; 0: until there is one or none."""
    prefer_positive: bool = False
    keep_ttl: bool = False
    no_success: list[str] = field(default_factory=list)
    no_denial: list[str] = field(default_factory=list)


def read(setup: Setup) -> Policy:
    """Read the directive. Raises CorefileError."""
    args = setup.once()
    policy = Policy([])
    if args and args[0].isdecimal():
        ttl = int(args.pop(0))
        policy.success = (CAPACITY, ttl, 5)
        policy.denial = (CAPACITY, ttl, 5)
        if ttl == 0:
            raise CorefileError("cache TTL can not be zero or negative: 0")
    elif args and args[0].lstrip("-").isdecimal():
        raise CorefileError(f"cache TTL can not be zero or negative: {args[0]}")
    policy.zones = setup.zones(args)
    for word, values in setup.properties():
        match word:
            case "success":
                policy.success = _life(setup, values, 3600)
            case "denial":
                policy.denial = _life(setup, values, 1800)
            case "prefetch":
                _prefetch(setup, policy, values)
            case "serve_stale":
                _serve_stale(setup, policy, values)
            case "serve_stale_policy":
                if policy.prefer_positive:
                    raise CorefileError("serve_stale_policy can only be specified once")
                if len(values) != 1:
                    raise setup.arg_err()
                if values[0].lower() != "prefer_positive":
                    raise CorefileError(f"invalid serve_stale_policy: {values[0]}")
                policy.prefer_positive = True
            case "servfail":
                if len(values) != 1:
                    raise setup.arg_err()
                policy.servfail = duration(values[0])
                if policy.servfail < 0:
                    raise CorefileError(f"invalid negative ttl for servfail: {values[0]}")
                if policy.servfail > 300:
                    raise CorefileError(
                        "caching SERVFAIL responses over 5 minutes is not permitted"
                    )
            case "disable":
                _disable(setup, policy, values)
            case "keepttl":
                if values:
                    raise setup.arg_err()
                policy.keep_ttl = True
            case _:
                raise setup.err(f"Wrong argument count or unexpected line ending after '{word}'")
    if policy.prefer_positive and not policy.stale:
        raise CorefileError("serve_stale_policy requires serve_stale")
    setup.no_more()
    return policy


def _life(setup: Setup, args: list[str], longest: int) -> tuple[int, float, float]:
    if not args:
        raise setup.arg_err()
    try:
        numbers = [int(a) for a in args[:3]]
    except ValueError as error:
        raise CorefileError(f'strconv.Atoi: parsing "{args[0]}": invalid syntax') from error
    if len(numbers) > 1 and numbers[1] <= 0:
        raise CorefileError(f"cache TTL can not be zero or negative: {numbers[1]}")
    if len(numbers) > 2 and numbers[2] < 0:
        raise CorefileError(f"cache min TTL can not be negative: {numbers[2]}")
    return (
        numbers[0],
        numbers[1] if len(numbers) > 1 else longest,
        numbers[2] if len(numbers) > 2 else 5,
    )


def _prefetch(setup: Setup, policy: Policy, args: list[str]) -> None:
    if not 1 <= len(args) <= 3:
        raise setup.arg_err()
    policy.prefetch = int(args[0])
    if policy.prefetch < 0:
        raise CorefileError(f"prefetch amount should be positive: {args[0]}")
    if len(args) > 1:
        policy.prefetch_for = duration(args[1])
    if len(args) > 2:
        if not args[2].endswith("%"):
            raise CorefileError(
                f"last character of percentage should be `%`, but is: {args[2][-1]}"
            )
        policy.prefetch_percent = int(args[2][:-1])
        if not 10 <= policy.prefetch_percent <= 90:
            raise CorefileError(f"percentage should fall in range [10, 90]: {args[2]}")


def _serve_stale(setup: Setup, policy: Policy, args: list[str]) -> None:
    policy.stale, policy.verify = 3600.0, False
    policy.verify_for = policy.stale_ttl = policy.recheck = 0
    if len(args) > 5:
        raise setup.arg_err()
    if args:
        policy.stale = duration(args[0])
        if policy.stale < 0:
            raise CorefileError("invalid negative duration for serve_stale")
    if len(args) > 1:
        mode = args[1].lower()
        if mode not in ("verify", "immediate"):
            raise CorefileError(f"invalid value for serve_stale refresh mode: {mode}")
        policy.verify = mode == "verify"
    more = args[2:]
    if policy.verify and more:
        policy.verify_for = _stale_number(more.pop(0), "serve_stale verify timeout")
        if policy.verify_for < 0:
            raise CorefileError("invalid negative timeout for serve_stale verify")
    if len(more) > 2:
        raise setup.arg_err()
    if more:
        policy.stale_ttl = _stale_ttl(more[0])
    if len(more) > 1:
        policy.recheck = _stale_number(more[1], "serve_stale failure recheck")
        if policy.recheck < 0:
            raise CorefileError("invalid negative failure recheck for serve_stale")
        if policy.recheck > 300:
            raise CorefileError("serve_stale failure recheck cannot exceed 5 minutes")


def _stale_number(text: str, what: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise CorefileError(f"invalid {what}: {error}") from error


def _stale_ttl(text: str) -> float:
    ttl = _stale_number(text, "serve_stale response TTL")
    if ttl < 0:
        raise CorefileError("invalid negative response TTL for serve_stale")
    if ttl != int(ttl):
        raise CorefileError("serve_stale response TTL must be a whole number of seconds")
    if ttl > 0xFFFFFFFF:
        raise CorefileError("serve_stale response TTL exceeds the DNS TTL range")
    return ttl


def _disable(setup: Setup, policy: Policy, args: list[str]) -> None:
    if not args:
        raise setup.arg_err()
    zones = [normalize(z) for z in args[1:]] or ["."]
    if args[0] == "success":
        policy.no_success = zones
    elif args[0] == "denial":
        policy.no_denial = zones
    else:
        raise CorefileError(
            f'cache type for disable must be "success" or "denial", but got \'{args[0]}\''
        )
