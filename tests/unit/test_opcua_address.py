"""The OPC UA address grammar: what integrators write, and what they are told when it is wrong."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.opcua.address import TYPES, NodeName, Source, parse, parse_node
from drivers.opcua.spec import SPEC, OpcuaDevice, OpcuaLink, OpcuaTag
from gateway.model import Kind

LINK = OpcuaLink(driver="opcua", url="opc.tcp://127.0.0.1:4840")


@pytest.mark.parametrize(
    ("text", "node", "type_name", "kind"),
    [
        ("ns=2;s=Boiler.T1", NodeName(2, "s", "Boiler.T1"), "float64", Kind.FLOAT),
        ("ns=2;s=Boiler.T1 float", NodeName(2, "s", "Boiler.T1"), "float32", Kind.FLOAT),
        ("ns=2;s=Boiler 1 temp bool", NodeName(2, "s", "Boiler 1 temp"), "bool", Kind.BOOL),
        ('ns=3;s="DB1"."x"[3] int64', NodeName(3, "s", '"DB1"."x"[3]'), "int64", Kind.INT),
        ("nsu=urn:plant:boilers;i=7 UInt64", NodeName("urn:plant:boilers", "i", 7), "uint64", Kind.UINT),
        ("nsu=http://a/b;s=a;s=b text", NodeName("http://a/b", "s", "a;s=b"), "text", Kind.TEXT),
        ("i=2258 datetime", NodeName(0, "i", 2258), "datetime", Kind.TEXT),
        ("ns=1;b=aGVsbG8=", NodeName(1, "b", b"hello"), "float64", Kind.FLOAT),
        (
            "g=09087e75-8e5e-499b-954f-f2a9603db28a",
            NodeName(0, "g", uuid.UUID("09087e75-8e5e-499b-954f-f2a9603db28a")), "float64", Kind.FLOAT,
        ),
        ("/Objects/2:Boiler/2:T1 int16", NodeName(0, "/", ((0, "Objects"), (2, "Boiler"), (2, "T1"))), "int16",
         Kind.FLOAT),
        ("nsu=urn:p;/Objects/A&/B/0:T", NodeName("urn:p", "/", ((0, "Objects"), ("urn:p", "A/B"), (0, "T"))),
         "float64", Kind.FLOAT),
    ],
)  # fmt: skip
def test_an_address_names_a_node_and_a_type(text: str, node: NodeName, type_name: str, kind: Kind) -> None:
    address = parse(text)
    assert (address.node, address.type, address.kind) == (node, type_name, kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo", "expected a node id or browse path"),
        ("ns=2;x=3", "expected a node id or browse path"),
        ("ns=2;s=", "nothing behind s="),
        ("i=12 flaot", "misspelt float"),
        ("ns=2;i=12x", "a numeric node id is a number"),
        ("i=4294967296", "below 4294967296"),
        ("ns=99999;i=1", "larger than 65535"),
        ("g=1234", "expected a GUID"),
        ("b=!", "expected base64"),
        ("/Objects//T", "element without a name"),
        ("ns=2;s=Curve [5:2]", "ends before it begins"),
        ("ns=2;s=Curve [0:99999]", "more than 10000 tags"),
    ],
)
def test_a_wrong_address_is_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_the_long_form_takes_the_address_word_for_word() -> None:
    """A node whose name ends like a type or a slice can still be addressed."""
    tag = OpcuaTag(address="ns=2;s=Line double", type="float")
    assert SPEC.resolve(tag, OpcuaDevice(), LINK)[0].source == Source(NodeName(2, "s", "Line double"))
    tag = OpcuaTag(address="ns=2;s=Line [3]", select="[1]")
    assert SPEC.resolve(tag, OpcuaDevice(), LINK)[0].source == Source(NodeName(2, "s", "Line [3]"), 1)


def test_a_slice_makes_one_tag_per_element() -> None:
    entries = SPEC.resolve(OpcuaTag(address="ns=2;s=Curve [3:5] float"), OpcuaDevice(), LINK)
    assert [entry.suffix for entry in entries] == ["[3]", "[4]", "[5]"]
    assert [entry.source.element for entry in entries] == [3, 4, 5]


def test_the_device_s_namespace_serves_ids_without_one() -> None:
    device = OpcuaDevice(namespace="urn:plant")
    assert SPEC.resolve(OpcuaTag(address="s=T1"), device, LINK)[0].source.node == NodeName("urn:plant", "s", "T1")
    assert SPEC.resolve(OpcuaTag(address="ns=0;i=2258"), device, LINK)[0].source.node == NodeName(0, "i", 2258)


@given(
    st.one_of(st.integers(0, 65535), st.sampled_from(["urn:a:b", "http://x/y"])),
    st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs"]), min_size=1),
)
def test_a_node_name_reads_back_from_its_text(namespace: int | str, name: str) -> None:
    node = NodeName(namespace, "s", name)
    assert parse_node(str(node)) == node


@pytest.mark.parametrize("word", TYPES)
def test_every_type_word_is_taken_off_in_any_case(word: str) -> None:
    assert parse(f"ns=2;s=a b {word.upper()}").node.name == "a b"


@pytest.mark.parametrize("url", ["opc.tcp://h:4840/x", "opc.tcp://[::1]:4840", "opc.tcp://plc"])
def test_an_endpoint_url_is_taken(url: str) -> None:
    assert OpcuaLink(driver="opcua", url=url).url == url


@pytest.mark.parametrize("url", ["http://h", "opc.tcp://", "opc.tcp://h:x", "tcp://h:1"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected opc\.tcp"):
        OpcuaLink(driver="opcua", url=url)


def test_reading_the_configuration_does_not_load_the_protocol_library() -> None:
    """A Modbus-only gateway, and the check of a site, must not pay for asyncua's memory."""
    code = "import sys, drivers.opcua.spec; sys.exit(any(name.startswith('asyncua') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
