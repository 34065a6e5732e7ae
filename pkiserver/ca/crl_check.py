"""A new list, read with another implementation before anybody gets it.

The library parses a list in one go and keeps the interpreter's lock, for a third of a second where
there are a million entries. So a large one is read in pieces: each run of entries inside the list's
own head and tail. The signature is over all of it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa, utils

from pkiserver.ca import encoding
from pkiserver.ca.crl import public_key
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der
from pkiserver.pkix.algorithms import signature_hash_for

_NO_SIGNATURE = der.encode_bit_string(b"\x00")


def check(
    data: bytes,
    issuer: x509.Certificate,
    *,
    number: int,
    entries: int,
    base: int | None = None,
    pieces: Sequence[int] = (),
) -> None:
    """PKIError INTERNAL unless the list is one, has this number, base and this many entries, and
    is signed by the issuer's key. `pieces` are the lengths in octets of runs of whole entries."""
    try:
        sound = _is_sound(data, issuer, number, entries, base, pieces)
    except (ValueError, TypeError, InvalidSignature, MalformedMessage) as error:
        raise PKIError(ErrorCode.INTERNAL, "the new CRL does not parse") from error
    if not sound:
        raise PKIError(ErrorCode.INTERNAL, "the new CRL is not what was to be signed")


def _is_sound(
    data: bytes,
    issuer: x509.Certificate,
    number: int,
    entries: int,
    base: int | None,
    pieces: Sequence[int],
) -> bool:
    shell = _take_apart(data)
    _verify(issuer, shell)
    found = 0
    for part in _parts(shell, pieces):
        parsed = x509.load_der_x509_crl(part)
        found += len(parsed)
        if parsed.issuer != issuer.subject or _numbers(parsed) != (number, base):
            return False
    return found == entries


@dataclass(frozen=True, slots=True)
class _Shell:
    """Where things are in a list. `tbs` and `inside` are offsets of its to-be-signed part and of
    the contents of that, which end at `end`."""

    data: bytes = field(repr=False)
    tbs: int
    inside: int
    end: int
    algorithm: bytes
    signature: bytes = field(repr=False)


def _take_apart(data: bytes) -> _Shell:
    outer, tbs, end = der.span(data, 0)
    inner, inside, tbs_end = der.span(data, tbs)
    third, _, algorithm_end = der.span(data, tbs_end)
    last, start, last_end = der.span(data, algorithm_end)
    tags = (outer, inner, third, last)
    whole = last_end == end == len(data) and data[start : start + 1] == b"\x00"
    if tags != (der.SEQUENCE, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING) or not whole:
        raise MalformedMessage("not a signed structure of to-be-signed, algorithm and signature")
    algorithm = data[tbs_end:algorithm_end]
    return _Shell(data, tbs, inside, tbs_end, algorithm, data[start + 1 : end])


def _verify(issuer: x509.Certificate, shell: _Shell) -> None:
    """Raises InvalidSignature. RSA and ECDSA sign a hash, which is made without the interpreter's
    lock; the other kinds take the octets themselves."""
    key = public_key(issuer)
    if isinstance(key, dsa.DSAPublicKey):
        raise TypeError("no authority has a DSA key")
    if shell.algorithm != encoding.signature_algorithm(key):
        raise InvalidSignature
    signed = memoryview(shell.data)[shell.tbs : shell.end]
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        key.verify(shell.signature, signed)
        return
    algorithm = signature_hash_for(key)
    if algorithm is None:
        raise TypeError("RSA and ECDSA sign a hash")
    digest = hashlib.new(algorithm.name, signed).digest()
    prehashed = utils.Prehashed(algorithm)
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(shell.signature, digest, padding.PKCS1v15(), prehashed)
    else:
        key.verify(shell.signature, digest, ec.ECDSA(prehashed))


def _parts(shell: _Shell, pieces: Sequence[int]) -> Iterator[bytes]:
    """The list itself, or small ones that together have its entries."""
    data, at = shell.data, shell.inside
    for _ in range(5):  # version, signature, issuer, thisUpdate, nextUpdate
        _, _, at = der.span(data, at)
    tag, first, after = der.span(data, at)
    if len(pieces) < 2 or tag != der.SEQUENCE or after - first != sum(pieces):
        yield data
        return
    head, tail = data[shell.inside : at], data[after : shell.end]
    for length in pieces:
        entries = der.encode(der.SEQUENCE, data[first : first + length])
        yield der.encode(
            der.SEQUENCE,
            der.encode(der.SEQUENCE, head, entries, tail),
            shell.algorithm,
            _NO_SIGNATURE,
        )
        first += length


def _numbers(parsed: x509.CertificateRevocationList) -> tuple[int | None, int | None]:
    """CRLNumber and BaseCRLNumber."""
    number = base = None
    for extension in parsed.extensions:
        if isinstance(extension.value, x509.CRLNumber):
            number = extension.value.crl_number
        elif isinstance(extension.value, x509.DeltaCRLIndicator):
            base = extension.value.crl_number
    return number, base
