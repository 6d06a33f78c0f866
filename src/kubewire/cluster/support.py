"""What a mode needs of this machine's kernel, found out by trying before anything starts."""

from kubewire.api.errors import InputError


def refuse_unsupported(pod_network: str) -> None:
    """Raise InputError if this kernel cannot carry pods that way."""
    if pod_network != "wireguard":
        return
    from kubewire.kernel import wireguard
    from kubewire.kernel.sandbox import SandboxError

    try:
        found = wireguard.available()
    except SandboxError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"wireguard: cannot try whether this kernel has it: {reason}") from error
    if not found:
        raise InputError(
            "wireguard: this kernel has no WireGuard devices (CONFIG_WIREGUARD, Linux 5.6 or later; "
            '"modprobe wireguard" where it is a module); use --pod-network host-gw, vxlan or auto'
        )
