"""Certificates and CRLs in a SignedData without content and signatures (RFC 5652 section 5.2):
"certs-only" in RFC 7030 section 4.1.3, "degenerate certificates-only" in RFC 8894 section 3.4."""

from collections.abc import Sequence

from cryptography import x509

from pkiserver.cms import ber, content_info, oids, signed_data
from pkiserver.errors import MalformedMessage


def encode(
    certificates: Sequence[x509.Certificate],
    crls: Sequence[bytes] = (),
    *,
    in_order: bool = True,
) -> bytes:
    """The message, in DER, with certificates and CRLs (their DER) in the order given, which says
    which is which to SCEP clients; or, not `in_order`, in that which DER has for a SET."""
    bag = [content_info.certificate_der(certificate) for certificate in certificates]
    if not in_order:
        bag, crls = sorted(bag), sorted(crls)
    return signed_data.assemble(oids.DATA, None, bag, crls=crls)


def parse(data: bytes, *, max_size: int = ber.MAX_SIZE) -> tuple[x509.Certificate, ...]:
    """The certificates, each of which has to be one; `MalformedMessage` otherwise, also for a
    message with a signature: that is for `signed_data`. Content of no octets, which some encoders
    send where there should be none, is none."""
    signed = signed_data.parse(data, max_size=max_size)
    if signed.signers or signed.content:
        raise MalformedMessage("the message is signed, or has content")
    return tuple(content_info.load_certificate(certificate) for certificate in signed.certificates)
