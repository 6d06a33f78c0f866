import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.lang.xds.model import Assignment, Cluster, Endpoint, from_stream
from kubewire.lang.xds.protobuf import encode, fields, frame, unframed, varint


@given(st.integers(0, (1 << 64) - 1))
def test_numbers(value: int) -> None:
    assert list(fields(b"\x08" + varint(value))) == [(1, value)]


def test_an_assignment_byte_by_byte() -> None:
    one = Assignment("a", (Endpoint("10.0.0.1", 8080, 3, "DRAINING"),))
    assert encode(one.to_json()).hex() == (
        "0a0161"  # cluster_name
        "121b"  # endpoints
        "1219"  # lb_endpoints
        "0a110a0f0a0d120831302e302e302e3118903f"  # endpoint.address.socket_address
        "22020803"  # load_balancing_weight
        "1003"  # health_status
    )


def test_a_field_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="lb_subset_config"):
        encode(Cluster("a", from_stream()).to_json() | {"lb_subset_config": {}})
    assert encode(Cluster("a", dns=("x.test", 80)).to_json())
    assert encode(Cluster("a", from_stream(), protocol="http", ejects=True, limits=False).to_json())


@pytest.mark.parametrize("data", [b"\x0a\x05a", b"\x08\x80", b"\x0b"])
def test_broken_messages(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(fields(data))


def test_frames_come_out_whole() -> None:
    buffer = bytearray(frame(b"abc") + frame(b"") + frame(b"defg")[:-1])
    assert list(unframed(buffer)) == [b"abc", b""]
    buffer += b"g"
    assert list(unframed(buffer)) == [b"defg"]
    assert not buffer
