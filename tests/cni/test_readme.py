"""The examples of the README are what the code takes."""

import json
import re
from pathlib import Path

import yaml

import kubewire.cni
from kubewire.cni import blocks, config, spec, written
from kubewire.cni.pools import Pod

README = (Path(kubewire.cni.__file__).parent / "README.md").read_text()
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/n",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K8S_POD_NAMESPACE=team-a",
}


def example(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


def test_the_network_configuration() -> None:
    wire = json.loads(example("json"))
    found = config.parse(spec.parse_request(ENV, json.dumps(wire).encode()))
    assert [str(ranges[0]) for ranges in found.sets] == [
        "10.50.0.1-10.50.0.254",
        "fd00:1::1-fd00:1::ffff:ffff:ffff:ffff",
    ]
    assert found.masquerade
    # Nothing in it is unknown to the code.
    known = {*written.Network.__struct_encode_fields__, "cniVersion", "name", "type", "capabilities"}  # fmt: skip
    assert wire.keys() <= known
    assert wire["ipam"].keys() <= {*written.Ipam.__struct_encode_fields__, "type"}
    for one in wire["ipam"]["pools"]:
        assert one.keys() <= set(written.Pool.__struct_encode_fields__)


def test_the_pools() -> None:
    [(name, text)] = yaml.safe_load(example("yaml"))["data"].items()
    pool = blocks.parse_pool(name, yaml.safe_load(text))
    assert pool.pool([]).selects(Pod("team-a"))
    assert pool.block_sizes == {4: 26, 6: 122}
