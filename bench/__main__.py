"""``make bench [only=NAME]``: run the benches, print one line of JSON per figure."""

import importlib
import json
import sys

BENCHES = (
    "startup",
    "scale",
    "wiring",
    "apiserver",
    "policies",
    "services",
    "kubeproxy",
    "iptables",
    "cni",
    "proxy_envoy",
    "dns",
)


def main() -> None:
    for name in sys.argv[1:] or BENCHES:
        module = importlib.import_module(f"bench.{name}")
        for figure in module.figures():
            print(json.dumps({"bench": name, **figure}), flush=True)


if __name__ == "__main__":
    main()
