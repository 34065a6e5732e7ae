"""What a profile takes from the request's subject are names as well (RFC 7030 section 3.4)."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.test_est.conftest import OpenWorld
from tests.test_est.support import PASSWORD, World, make_csr, peer_with

ALICE = ("alice", PASSWORD)
TEMPLATE = "CN={cn},OU={ou},serialNumber={serialnumber},emailAddress={emailaddress}"
CONFIGURATION = f"""
[profiles.device]
subject = "{TEMPLATE}"
[profiles.device.email]
allow = ["@example.org"]
[est.default]
"""


def name(cn: str, **fields: str) -> x509.Name:
    oids = {
        "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
        "serial": NameOID.SERIAL_NUMBER,
        "mail": NameOID.EMAIL_ADDRESS,
        "o": NameOID.ORGANIZATION_NAME,
    }
    return x509.Name(
        [
            *(x509.NameAttribute(oids[key], value) for key, value in fields.items()),
            x509.NameAttribute(NameOID.COMMON_NAME, cn),
        ]
    )


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    world = await open_world(CONFIGURATION)
    await world.add_user()
    return world


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"ou": "Sensors", "serial": "7", "mail": "dev1@example.org"}, 200),
        ({"serial": "7"}, 200),
        ({"serial": "dev1"}, 200),
        ({}, 200),
        ({"o": "Anything, since the template has no O"}, 200),
        ({"ou": "Administrators"}, 403),
        ({"ou": "dev1"}, 403),
        ({"serial": "8"}, 403),
        ({"mail": "chief@example.org"}, 403),
    ],
)
async def test_of_a_certificate(world: World, fields: dict[str, str], status: int) -> None:
    """A client certificate enrols for what is in it, not for another department or number."""
    subject = name("dev1", ou="Sensors", serial="7", mail="dev1@example.org")
    held = await world.enroll(subject)
    answer = await world.post(
        "simpleenroll", make_csr(name("dev1", **fields)), peer=peer_with(held)
    )
    assert answer.status_code == status
    assert len(await world.refusals()) == (status == 403)


@pytest.mark.parametrize("operation", ["simpleenroll", "serverkeygen"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"ou": "Sensors", "serial": "dev-9", "mail": "dev-1@example.org"}, 200),
        ({"serial": "7"}, 403),
        ({"mail": "chief@example.org"}, 403),
    ],
)
async def test_of_a_user(
    open_world: OpenWorld, fields: dict[str, str], status: int, operation: str
) -> None:
    """Patterns of a user hold for what identifies somebody, wherever it stands."""
    world = await open_world(CONFIGURATION)
    await world.add_user(names={"cn": ["dev-*"], "email": ["dev-1@example.org"]})
    answer = await world.post(operation, make_csr(name("dev-1", **fields)), auth=ALICE)
    assert answer.status_code == status
