"""The chains that the back end's README shows are those of its example."""

from pathlib import Path

import yaml

import kubewire.kubeproxy.backends.iptables
from kubewire.kubeproxy.backends.iptables.base import Setting
from kubewire.kubeproxy.backends.iptables.compile import tables
from kubewire.kubeproxy.backends.iptables.names import PREFIXES
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Tracer
from tests.readme import block

TEXT = (Path(kubewire.kubeproxy.backends.iptables.__file__).parent / "README.md").read_text()


def test_the_chains_of_the_example() -> None:
    found = read((o, str) for o in yaml.safe_load_all(block(TEXT, "yaml")))
    tracer = Tracer(found, None, "n1")
    nat = tables(4, tracer.plan.frontends.values(), Setting(tracer.config))["nat"]
    own = [c for c in nat.chains.values() if c.name.startswith(PREFIXES)]
    assert "".join(f"{line}\n" for chain in own for line in chain.lines()) == block(
        TEXT, "iptables"
    )
