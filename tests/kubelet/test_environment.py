"""Variables in commands."""

from kubewire.kubelet.environment import probe_command
from kubewire.kubelet.pod import Container, EnvSource, EnvVar, FieldRef


def test_an_exec_probe_knows_the_variables_that_the_manifest_spells_out() -> None:
    source = EnvSource(field_ref=FieldRef(field_path="status.podIP"))
    env = [EnvVar(name="A", value="1"), EnvVar(name="B", value="$(A)2"), EnvVar(name="C", value_from=source)]  # fmt: skip
    command = ("x", "$(A)", "-$(B)-", "$(C)", "$$(A)", "$A", "$(NONE)")
    assert probe_command(Container(env=env), command) == (
        "x", "1", "-12-", "$(C)", "$(A)", "$A", "$(NONE)",
    )  # fmt: skip
