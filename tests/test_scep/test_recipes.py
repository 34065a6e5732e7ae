"""The configurations in the recipes, as they stand there, and the devices they are for."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from protocols.scep.messages import MessageType
from tests.test_scep.client import Device, Key, get_url, rsa_key
from tests.test_scep.conftest import OpenWorld
from tests.test_scep.world import World
from tests.test_scep_challenges.intune_fake import Expected, FakeMicrosoft
from tests.test_scep_challenges.intune_world import CHALLENGE, IntuneSection, device_csr, upn

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted([*DOCS.glob("recipes/scep-*.md"), *DOCS.glob("protocols/scep*.md")])


def tables(page: Path) -> dict[str, Any]:
    """What a page tells people to configure."""
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return tomllib.loads("".join(blocks))


def recipe(name: str) -> dict[str, Any]:
    return tables(DOCS / "recipes" / f"scep-{name}.md")


@pytest.mark.parametrize("page", [page for page in PAGES if tables(page)], ids=lambda p: p.stem)
async def test_what_pages_configure_is_accepted(page: Path, open_world: OpenWorld) -> None:
    """A profile that a page leaves to the reader is there."""
    given = tables(page)
    profiles = {"routers": {"validity": "1y"}, **given.pop("profiles", {})}
    sections = given.pop("scep")
    assert not given, "only what is tested here"
    world = await open_world(profiles=profiles, **sections)
    answer = await world.http.get(f"/scep/{next(iter(sections))}?operation=GetCACaps")
    assert answer.status_code == 200


@pytest.fixture
async def chromebooks(open_world: OpenWorld, tmp_path: Path) -> World:
    given = recipe("chromeos")
    world = await open_world(profiles=given["profiles"], **given["scep"])
    secret = tmp_path / "home" / given["scep"]["chromebooks"]["challenge_secret_file"]
    secret.write_text("5f3c9a0e17d24b86\n", encoding="utf-8")
    secret.chmod(0o600)
    return world


@pytest.mark.parametrize("name", ["5CD1234XYZ", "ada@example.com"])
async def test_chromeos(chromebooks: World, name: str) -> None:
    """Google's connector signs in BER, with a key of its own, what Chromebooks request; the subject
    is a serial number or a mailbox."""
    connector = await chromebooks.device("chromebooks", number=1, common_name="connector")
    csr = Device.new(connector.ca, common_name=name).csr("5f3c9a0e17d24b86")
    message = connector.message(MessageType.PKCS_REQ, csr, ber=True)
    rep = await chromebooks.send(connector, message, "chromebooks")
    assert rep.status == "0", rep.text
    assert rep.certificate.subject.rfc4514_string() == f"CN={name}"


async def test_cisco_ios(world: World) -> None:
    """The password of the recipe, `subject-name` and `subject-alt-name` of its trustpoint, by GET
    below the path IOS makes of the URL; then `auto-enroll regenerate` with a new key."""
    name = "router-1.example.com"
    challenge = await world.challenge(subjects=[name])
    router = await world.device()
    request = _cisco_request(router.key, name, challenge).public_bytes(Encoding.DER)
    query = get_url(router.message(MessageType.PKCS_REQ, request))
    answer = await world.http.get(f"/scep/default/pkiclient.exe?{query}")
    rep = router.read(answer.content)
    assert rep.status == "0", rep.text
    names = rep.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]
    again = router.with_certificate(rep.certificate)
    message = again.renewal_req(csr={"key": rsa_key(1), "common_name": name})
    renewed = await world.send(again, message)
    assert renewed.status == "0", renewed.text
    assert renewed.certificate.subject == rep.certificate.subject


def _cisco_request(key: Key, name: str, challenge: str) -> x509.CertificateSigningRequest:
    """IOS puts the host's name into unstructuredName, too."""
    attributes = [
        x509.NameAttribute(x509.ObjectIdentifier("1.2.840.113549.1.9.2"), name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ]
    builder = (
        x509.CertificateSigningRequestBuilder(x509.Name(attributes))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    )
    return builder.sign(key, hashes.SHA256())


async def test_mikrotik(world: World) -> None:
    """The template of the recipe: RSA 2048, three usages, a challenge for its common name; renewed
    with the old certificate and no challenge."""
    router = await world.device(common_name="router-1.example.com")
    challenge = await world.challenge(subjects=[router.common_name])
    rep = await world.send(router, router.pkcs_req(challenge))
    assert rep.status == "0", rep.text
    again = router.with_certificate(rep.certificate)
    assert (await world.send(again, again.renewal_req())).status == "0"


async def test_intune(open_world: OpenWorld) -> None:
    """The profile of the recipe takes all that Intune's profiles can say."""
    given = recipe("intune")
    world = await open_world(profiles=given["profiles"])
    fake = FakeMicrosoft(world.clock.now)
    fake.profiles[CHALLENGE] = Expected()
    intune = IntuneSection(world.runtime, fake, given["scep"]["intune"]["profile"])  # type: ignore[arg-type]
    sid = "tag:microsoft.com,2022-09-14:sid:S-1-5-21-1004336348-1177238915-682003330-512"
    names = [
        x509.DNSName("laptop-7.example.com"),
        x509.RFC822Name("ada@example.com"),
        x509.UniformResourceIdentifier(sid),
        upn("ada@example.com"),
    ]
    subject = "CN=Ada,E=ada@example.com,OU=Mobile,O=Finance,L=Redmond,ST=Washington,C=US"
    certificate = await intune.enrol(device_csr(subject=subject, alt_names=names, key=rsa_key()))
    shown = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(shown) == set(names)
    assert len(certificate.subject) == 7
