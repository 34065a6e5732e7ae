"""Client certificates of outside CAs: factory certificates, and which label takes them."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.pem import pem_chain
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import (
    ENCIPHER_ONLY_USAGE,
    SERVER_AUTH,
    Factory,
    Held,
    World,
    issued,
    make_csr,
    new_key,
    peer_with,
)

FACTORIES = """
[est.default]
[est.line-a]
auth = ["mtls"]
client_ca = ["{a}"]
[est.line-b]
auth = ["mtls"]
client_ca = ["{b}"]
certificate_names = "any"
"""


@pytest.fixture(scope="session")
def other_factory() -> Factory:
    return Factory("Other")


@pytest.fixture
async def factories(
    open_world: OpenWorld, factory: Factory, other_factory: Factory, tmp_path: Path
) -> World:
    for name, which in (("a", factory), ("b", other_factory)):
        (tmp_path / f"{name}.pem").write_bytes(pem_chain([which.root.certificate]))
    return await open_world(FACTORIES.format(a=tmp_path / "a.pem", b=tmp_path / "b.pem"))


async def test_a_factory_certificate_enrols(factories: World, factory: Factory) -> None:
    """The name of the device is in the certificate it was made with."""
    peer = peer_with(factory.device("SN-1"), factory.issuing, factory.root)
    certificate = issued(await factories.post("line-a/simpleenroll", make_csr("SN-1"), peer=peer))
    assert certificate.subject.rfc4514_string() == "CN=SN-1"
    other = await factories.post("line-a/simpleenroll", make_csr("SN-2"), peer=peer)
    assert other.status_code == 403
    ((requester,),) = await factories.rows(
        "SELECT DISTINCT requester FROM certificates WHERE requester LIKE 'est:%'"
    )
    assert str(requester).startswith("est:outside:")


async def test_anchors_are_of_one_label(
    factories: World, factory: Factory, other_factory: Factory
) -> None:
    """Never one label's anchors for another, though the listener accepts all of them."""
    a = peer_with(factory.device("SN-1"), factory.issuing, factory.root)
    b = peer_with(other_factory.device("SN-1"), other_factory.issuing, other_factory.root)
    request = make_csr("SN-1")
    assert (await factories.post("line-b/simpleenroll", request, peer=a)).status_code == 403
    assert (await factories.post("line-a/simpleenroll", request, peer=b)).status_code == 403
    assert (await factories.post("simpleenroll", request, peer=a)).status_code == 401
    assert (await factories.post("line-b/simpleenroll", request, peer=b)).status_code == 200
    assert len(await factories.refusals()) == 3


async def test_without_the_chain_there_is_no_path(factories: World, factory: Factory) -> None:
    peer = peer_with(factory.device("SN-1"))
    answer = await factories.post("line-a/simpleenroll", make_csr("SN-1"), peer=peer)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"eku": SERVER_AUTH},
        {"usage": ENCIPHER_ONLY_USAGE},
        {"unknown_critical": True},
    ],
)
async def test_certificates_that_are_for_something_else(
    factories: World, factory: Factory, wrong: dict[str, object]
) -> None:
    """E23."""
    device = factory.device("SN-1", **wrong)  # type: ignore[arg-type]
    peer = peer_with(device, factory.issuing, factory.root)
    answer = await factories.post("line-a/simpleenroll", make_csr("SN-1"), peer=peer)
    assert answer.status_code == 403


async def test_a_self_made_certificate_with_the_anchors_name(
    factories: World, factory: Factory
) -> None:
    forged = Factory()
    peer = peer_with(forged.device("SN-1"), forged.issuing, forged.root)
    answer = await factories.post("line-a/simpleenroll", make_csr("SN-1"), peer=peer)
    assert answer.status_code == 403


async def test_a_device_certificate_is_no_authority(factories: World, factory: Factory) -> None:
    device = factory.device("SN-1")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SN-2")])
    key = new_key()
    below = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(device.certificate.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(factory.now - dt.timedelta(days=1))
        .not_valid_after(factory.now + dt.timedelta(days=1))
        .sign(device.key, hashes.SHA256())
    )
    peer = peer_with(Held(below, key), device, factory.issuing, factory.root)
    answer = await factories.post("line-a/simpleenroll", make_csr("SN-2"), peer=peer)
    assert answer.status_code == 403


async def test_factory_certificates_do_not_reenroll(factories: World, factory: Factory) -> None:
    """E20: what is renewed is a certificate of ours."""
    peer = peer_with(factory.device("SN-1"), factory.issuing, factory.root)
    answer = await factories.post("line-a/simplereenroll", make_csr("SN-1"), peer=peer)
    assert answer.status_code == 403
    assert "not one of ours" in answer.text


async def test_anchor_files_are_read_again(
    factories: World, other_factory: Factory, tmp_path: Path
) -> None:
    """While a file is broken the anchors before it stay: no failure of ours for clients."""
    anchors = factories.runtime.protocols["est"].client_anchors
    assert anchors is not None
    before = set(anchors())
    extra = Factory("Third").root
    path = tmp_path / "b.pem"
    path.write_bytes(pem_chain([other_factory.root.certificate, extra.certificate]))
    assert set(anchors()) - before == {extra.der}
    known = set(anchors())
    path.write_bytes(b"nothing")
    with capture_logs() as logs:
        assert set(anchors()) == set(anchors()) == known
    assert [str(path) in entry["detail"] for entry in logs] == [True]
    device = other_factory.device("SN-5")
    peer = peer_with(device, other_factory.issuing, other_factory.root)
    answer = await factories.post("line-b/simpleenroll", make_csr("SN-5"), peer=peer)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("configuration", "what"),
    [
        ('[est.default]\nclient_ca = ["missing.pem"]\n', "missing.pem"),
        ('[est.default]\nclient_ca = ["pkiserver.toml"]\n', "pkiserver.toml"),
        ('[est.default]\nauth = ["basic"]\nclient_ca = ["root.pem"]\n', "client_ca"),
        ('[est.default]\nprofile = "other"\n', "profile"),
        ("[est.cacerts]\n", "operation"),
        ('[est.default]\nclient_profiles = ["other"]\n', "client_profiles"),
        ('[est.default]\nserver_keys = "ml-dsa-44"\n', "server_keys"),
    ],
)
async def test_mistakes_in_the_configuration(
    open_world: OpenWorld, configuration: str, what: str
) -> None:
    with pytest.raises(PKIError) as refused:
        await open_world(configuration)
    assert refused.value.code is ErrorCode.CONFIGURATION
    assert what in refused.value.detail


async def test_a_label_without_client_certificates_asks_for_none(open_world: OpenWorld) -> None:
    world = await open_world('[est.default]\nauth = ["basic"]\n')
    assert world.runtime.protocols["est"].client_anchors is None
