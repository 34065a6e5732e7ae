"""csrattrs: attributes of RFC 7030 section 4.5.2, the template of RFC 9908."""

import base64

import pytest

from pkiserver.pkix import der
from pkiserver.web.peer import Peer
from protocols.est import csrattrs
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import ADDRESS

TLS12 = Peer(ADDRESS, tls_version="TLSv1.2", tls_unique=b"123456789012")
CHALLENGE = "1.2.840.113549.1.9.7"
EKU = "2.5.29.37"
SAN = "2.5.29.17"


def items(data: bytes) -> dict[str, tuple[der.TLV, ...] | None]:
    """Attribute values by OID; None for a bare OID."""
    found: dict[str, tuple[der.TLV, ...] | None] = {}
    for item in der.sequence_of(data):
        if item.tag == der.OBJECT_IDENTIFIER:
            found[der.decode_oid(item.contents)] = None
        else:
            kind, values = der.sequence_of(item.encoded)
            found[der.decode_oid(kind.contents)] = der.children(values.contents)
    return found


async def fetch(open_world: OpenWorld, configuration: str, peer: Peer | None = None) -> bytes:
    world = await open_world(configuration)
    answer = await world.request("GET", "csrattrs", peer=peer)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/csrattrs"
    return base64.b64decode(answer.content, validate=True)


async def test_nothing_to_say_is_204(open_world: OpenWorld) -> None:
    """E17."""
    world = await open_world('[est.default]\ncsr_attributes = "none"\n')
    answer = await world.request("GET", "csrattrs")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers


async def test_linking_alone(open_world: OpenWorld) -> None:
    """E15: exactly what libest and Bouncy Castle compare with."""
    data = await fetch(open_world, '[est.default]\ncsr_attributes = "none"\n', TLS12)
    assert base64.b64encode(data) == b"MAsGCSqGSIb3DQEJBw=="


@pytest.mark.parametrize("policy", ["off", "if-present", "required"])
async def test_linking_is_not_asked_for_on_tls13(open_world: OpenWorld, policy: str) -> None:
    """E16."""
    text = f'[est.default]\ncsr_attributes = "none"\nproof_of_possession = "{policy}"\n'
    world = await open_world(text)
    assert (await world.request("GET", "csrattrs")).status_code == 204
    status = (await world.request("GET", "csrattrs", peer=TLS12)).status_code
    assert status == (204 if policy == "off" else 200)


@pytest.mark.parametrize(
    ("kind", "oid", "value"),
    [
        ("p256", "1.2.840.10045.2.1", "06082a8648ce3d030107"),
        ("p384", "1.2.840.10045.2.1", "06052b81040022"),
        ("rsa-2048", "1.2.840.113549.1.1.1", "02020800"),
        ("ed25519", "1.3.101.112", None),
    ],
)
async def test_the_kind_of_key(
    open_world: OpenWorld, kind: str, oid: str, value: str | None
) -> None:
    """RFC 9908 section 3.2."""
    found = items(await fetch(open_world, f'[est.default]\nkey_kind = "{kind}"\n'))
    values = found[oid]
    assert [each.encoded.hex() for each in values or ()] == ([value] if value else [])


async def test_the_only_kind_of_the_profile(open_world: OpenWorld) -> None:
    found = items(
        await fetch(
            open_world,
            '[profiles.device]\nkey_kinds = ["p384"]\n[est.default]\nserver_keys = "p384"\n',
        )
    )
    assert "1.2.840.10045.2.1" in found


TEMPLATE = """
[profiles.device]
subject = "CN={cn},O=Example,C=CH"
[est.default]
csr_attributes = "template"
key_kind = "rsa-3072"
"""


async def test_template(open_world: OpenWorld) -> None:
    """E18, RFC 9908 section 3.4: values that are given, and places to be filled in."""
    ((template,),) = [values or () for values in items(await fetch(open_world, TEMPLATE)).values()]
    version, subject, key, attributes = der.children(template.contents)
    assert version.encoded == der.encode_integer(0)
    rdns = [der.sequence_of(der.children(rdn.contents)[0].encoded)
            for rdn in der.children(subject.contents)]  # fmt: skip
    assert [der.decode_oid(rdn[0].contents) for rdn in rdns] == ["2.5.4.6", "2.5.4.10", "2.5.4.3"]
    assert [der.decode_text(rdn[1]) if len(rdn) > 1 else None for rdn in rdns] == [
        "CH", "Example", None,
    ]  # fmt: skip
    algorithm, stand_in = der.children(key.contents)
    assert key.tag == 0xA0
    assert der.decode_oid(der.children(algorithm.contents)[0].contents) == "1.2.840.113549.1.1.1"
    modulus, _ = der.sequence_of(stand_in.contents[1:])
    assert int.from_bytes(modulus.contents).bit_length() == 3072
    assert attributes.tag == 0xA1
    (attribute,) = der.children(attributes.contents)
    kind, values = der.children(attribute.contents)
    assert der.decode_oid(kind.contents) == csrattrs.EXTENSION_TEMPLATE_OID
    extensions = [
        (der.decode_oid(extension[0].contents), len(extension) > 1)
        for extension in (
            der.sequence_of(each.encoded)
            for each in der.sequence_of(der.children(values.contents)[0].encoded)
        )
    ]
    assert extensions == [(EKU, True), (SAN, False)]


async def test_template_without_names_has_whole_extensions(open_world: OpenWorld) -> None:
    """RFC 9908 section 3.4: id-ExtensionReq where nothing is left open; never both."""
    text = (
        '[profiles.bare]\nextended_key_usage = ["clientAuth"]\nsubject = "CN={cn}"\n'
        'require_name = false\n[est.default]\nprofile = "bare"\ncsr_attributes = "template"\n'
    )
    ((template,),) = [values or () for values in items(await fetch(open_world, text)).values()]
    (attribute,) = der.children(der.children(template.contents)[-1].contents)
    assert der.decode_oid(der.children(attribute.contents)[0].contents) == "1.2.840.113549.1.9.14"


async def test_linking_in_the_template(open_world: OpenWorld) -> None:
    data = await fetch(open_world, TEMPLATE, TLS12)
    found = items(data)
    assert set(found) == {CHALLENGE, csrattrs.TEMPLATE_OID}
    (template,) = found[csrattrs.TEMPLATE_OID] or ()
    oids = {
        der.decode_oid(der.children(attribute.contents)[0].contents)
        for attribute in der.children(der.children(template.contents)[-1].contents)
    }
    assert oids == {CHALLENGE, csrattrs.EXTENSION_TEMPLATE_OID}
