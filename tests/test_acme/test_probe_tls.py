"""tls-alpn-01 over real TLS."""

import asyncio
import hashlib
import ipaddress
import ssl
from dataclasses import replace

import pytest
from cryptography import x509

from protocols.acme.challenges import ChallengeType, Proof, start_validation
from protocols.acme.challenges.model import FailureKind, ProbeALPN, ValidationFailed
from protocols.acme.network import NetworkPolicy
from protocols.acme.probe import NetworkProber, ProbeSettings, run
from tests.test_acme.challenge_support import (
    CONTEXT,
    KEY_AUTHORIZATION,
    ALPNCertificate,
    listening,
)

DIGEST = hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()
LOOPBACK = ipaddress.ip_address("127.0.0.1")
PROBER = NetworkProber(
    ProbeSettings(
        policy=NetworkPolicy(allow_loopback=True),
        resolvers=("127.0.0.1:1",),
        connect_timeout=0.5,
        exchange_timeout=0.5,
    )
)


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def validate(tls: ssl.SSLContext, identifier_type: str = "ip") -> Proof:
    async with listening(idle, tls=tls) as port:
        context = replace(
            CONTEXT, identifier_type="ip", identifier_value="127.0.0.1", tls_alpn01_port=port
        )
        if identifier_type == "dns":
            context = replace(context, identifier_type="dns", identifier_value="localhost")
        return await run(start_validation(ChallengeType.TLS_ALPN_01, context), PROBER)


async def test_rfc_8738_address_end_to_end_with_its_reverse_name_by_sni() -> None:
    tls = ALPNCertificate(DIGEST, [x509.IPAddress(LOOPBACK)]).server_context("acme-tls/1")
    seen: list[str | None] = []
    tls.sni_callback = lambda _object, name, _context: seen.append(name)
    proof = await validate(tls)
    assert seen == ["1.0.0.127.in-addr.arpa"]
    assert proof.records[0].address_used == "127.0.0.1"


async def test_rfc_8737_domain_end_to_end() -> None:
    tls = ALPNCertificate(DIGEST, [x509.DNSName("localhost")]).server_context("acme-tls/1")
    proof = await validate(tls, "dns")
    assert proof.records[0].hostname == "localhost"


async def test_a_certificate_for_another_challenge() -> None:
    tls = ALPNCertificate(b"\x01" * 32, [x509.IPAddress(LOOPBACK)]).server_context("acme-tls/1")
    with pytest.raises(ValidationFailed, match="not the digest") as caught:
        await validate(tls)
    assert caught.value.kind is FailureKind.INCORRECT_RESPONSE


@pytest.mark.parametrize("protocols", [(), ("h2", "http/1.1")])
async def test_section_3_a_web_server_is_no_proof(protocols: tuple[str, ...]) -> None:
    """OpenSSL refuses a common protocol that is missing, or leaves ALPN out altogether."""
    certificate = ALPNCertificate(DIGEST, [x509.IPAddress(LOOPBACK)])
    with pytest.raises(ValidationFailed) as caught:
        await validate(certificate.server_context(*protocols))
    assert caught.value.kind is FailureKind.TLS


async def test_tls_1_1_is_refused() -> None:
    tls = ALPNCertificate(DIGEST, [x509.IPAddress(LOOPBACK)]).server_context("acme-tls/1")
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ValidationFailed, match="TLS handshake") as caught:
        await validate(tls)
    assert caught.value.kind is FailureKind.TLS


async def test_a_server_that_stays_silent_is_given_up() -> None:
    async with listening(idle) as port:
        request = ProbeALPN("127.0.0.1", port, "a.test", "acme-tls/1")
        with pytest.raises(ValidationFailed, match="no answer from 127.0.0.1") as caught:
            await PROBER.probe_alpn(request)
    assert caught.value.kind is FailureKind.TLS


async def test_a_server_that_hangs_up() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with listening(hang_up) as port:
        request = ProbeALPN("127.0.0.1", port, "a.test", "acme-tls/1")
        with pytest.raises(ValidationFailed) as caught:
            await PROBER.probe_alpn(request)
    assert caught.value.kind is FailureKind.TLS
    assert f"127.0.0.1:{port}" in caught.value.detail


async def test_a_name_that_sni_cannot_carry() -> None:
    async with listening(idle) as port:
        request = ProbeALPN("127.0.0.1", port, "a" * 64 + ".test", "acme-tls/1")
        with pytest.raises(ValidationFailed, match="SNI") as caught:
            await PROBER.probe_alpn(request)
    assert caught.value.kind is FailureKind.TLS
