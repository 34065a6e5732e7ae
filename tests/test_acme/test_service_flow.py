"""The whole way to a certificate (RFC 8555 section 7), by each kind of challenge."""

from cryptography import x509

from tests.test_acme.client import ACMEClient
from tests.test_acme.world import World


async def test_the_usual_way(world: World, client: ACMEClient) -> None:
    issued = await world.issue(client, "www.example.org", "example.org")
    san = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.DNSName) == ["example.org", "www.example.org"]
