"""What becomes of an authority, and of what links it, when a CA certificate is revoked: RFC 5280
section 6.1.3 (a)(3), RFC 6960 section 2.7, checklist ocsp-crl-ca section 7 "CA core"."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.model import Reason
from pkiserver.ca.subtrees import subject_name
from pkiserver.errors import ErrorCode
from tests.ca.status_support import ACTOR, PKI, ask, open_pki
from tests.ca.test_rollover import BY_HAND, DAY, WHO, activate, another_process, refused, rotate


@pytest.fixture
async def pki(tmp_path: Path) -> AsyncIterator[PKI]:
    async with open_pki(tmp_path) as pki:
        yield pki


async def revoke(
    pki: PKI,
    issuer: str,
    certificate: x509.Certificate,
    reason: Reason = Reason.CESSATION_OF_OPERATION,
) -> None:
    await pki.revocation.revoke(issuer, certificate.serial_number, reason, actor=ACTOR)
    await pki.authorities.refresh_if_changed()


async def release(pki: PKI, issuer: str, certificate: x509.Certificate) -> None:
    await pki.revocation.release(issuer, certificate.serial_number, actor=ACTOR)
    await pki.authorities.refresh_if_changed()


def new_with_old(pki: PKI) -> x509.Certificate:
    (found,) = (c for c in pki.authorities.links("root-2") if c.issuer != c.subject)
    return found


async def test_a_revoked_link_is_offered_no_more(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    await activate(pki, "root")
    await rotate(pki, "issuing")
    link, other = new_with_old(pki), pki.authorities.links("root")
    assert link in pki.authorities.rollover_certificates("issuing")
    elsewhere = await another_process(pki)
    await revoke(pki, "root", link)
    await elsewhere.refresh_if_changed()
    for tree in (pki.authorities, elsewhere):
        assert tree.links("root-2") == () and tree.root_links("issuing-2") == ()
        assert len(tree.chains("issuing-2")) == 1
        assert link not in tree.rollover_certificates("issuing")
        assert link not in tree.linked_chain("issuing-2")
        assert tree.links("root") == other, "the other direction is a certificate of its own"


async def test_a_link_on_hold_is_back_after_its_release(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    link = new_with_old(pki)
    await revoke(pki, "root", link, Reason.CERTIFICATE_HOLD)
    assert pki.authorities.links("root-2") == ()
    await release(pki, "root", link)
    assert link in pki.authorities.links("root-2")


async def test_a_revoked_root_is_no_anchor_and_has_nothing_linked(pki: PKI) -> None:
    await rotate(pki, "root", BY_HAND)
    old = pki.certificate("root")
    assert old in pki.authorities.roots()
    await revoke(pki, "root", old, Reason.CA_COMPROMISE)
    assert pki.authorities.roots() == (pki.certificate("root-2"),)
    assert pki.authorities.links("root") == pki.authorities.links("root-2") == ()
    assert pki.authorities.is_revoked("root") and not pki.authorities.is_revoked("root-2")


async def test_a_revoked_root_and_what_is_below_it_issue_nothing(pki: PKI) -> None:
    prepared = await pki.prepare()
    await revoke(pki, "root", pki.certificate("root"), Reason.CA_COMPROMISE)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "authority root is revoked"):
        await pki.issuance.issue(prepared)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "authority root is revoked"):
        wish = Wish(subject_name("CN=Other"), 10 * DAY)
        await pki.authorities.create("other", "root", wish, "p256", actor=WHO)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "authority root is revoked"):
        await rotate(pki, "root", BY_HAND)


async def test_status_of_what_a_revoked_authority_issued_goes_on(pki: PKI) -> None:
    issued = await pki.issue()
    own = pki.certificate("issuing")
    await revoke(pki, "root", own, Reason.CA_COMPROMISE)
    await pki.status.maintain()
    await pki.revoke(issued)
    answer = await pki.status.ocsp("issuing", ask(issued.certificate, own))
    parsed = ocsp.load_der_ocsp_response(answer.der)
    assert parsed.certificate_status is ocsp.OCSPCertStatus.REVOKED
    crl = x509.load_der_x509_crl((await pki.status.crl("issuing")).der)
    assert crl.get_revoked_certificate_by_serial_number(issued.record.serial) is not None


async def test_a_revoked_generation_is_not_announced(pki: PKI) -> None:
    coming = (await rotate(pki, "issuing", BY_HAND)).certificate
    assert coming is not None and pki.authorities.next_certificate("issuing") == coming
    await revoke(pki, "root", coming)
    assert pki.authorities.next_certificate("issuing") is None
    assert coming not in pki.authorities.rollover_certificates("issuing")


async def test_the_line_of_a_revoked_authority_goes_on_with_a_new_key(pki: PKI) -> None:
    await revoke(pki, "root", pki.certificate("issuing"), Reason.CA_COMPROMISE)
    with refused(ErrorCode.REFUSED_BY_PROFILE, "authority issuing is revoked"):
        await pki.issue()
    await rotate(pki, "issuing")
    assert (await pki.issue()).record.issuer == "issuing-2"
    assert pki.certificate("issuing") not in pki.authorities.rollover_certificates("issuing")
