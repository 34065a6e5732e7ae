"""PyScep as a library, in its own environment:
`driver.py URL OPERATION NAME [...]`, PEM files in the current directory.

    enrol NAME CHALLENGE    with a certificate it signs itself; `pending` where it has to wait
    poll NAME               by the transaction of enrol
    renew NAME              a PKCSReq signed with the certificate there is, for a new key
    getcert NAME SERIAL     a certificate by its serial number (hexadecimal)
    getcrl NAME SERIAL      the CRL that would list it, in DER

It brings no list of what it needs; `interop/tools.py` does. It is helped over what it does not
know: OpenSSL's versions from 3.0.10 on (its oscrypto 1.3.0), certificates without basicConstraints,
a registration authority that both signs and decrypts, and answers without content, which is how RFC
8894 section 3.3.2 wants FAILURE and PENDING."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from asn1crypto import pem

_search = re.search


def _with_two_digits(pattern: Any, text: str, *flags: Any) -> Any:
    if isinstance(pattern, str):
        pattern = pattern.replace(r"\d[a-z]*)", r"\d+[a-z]*)")
    return _search(pattern, text, *flags)


re.search = _with_two_digits  # type: ignore[assignment]
from scep.Client import Certificate, Client, PKIStatus, PrivateKey, SigningRequest  # noqa: E402
from scep.Client import message as pki_message  # noqa: E402
from scep.Client.responses import CACertificates  # noqa: E402

re.search = _search

Outcome = dict[str, str]

USAGE = {"digital_signature", "key_encipherment"}
digest_of = pki_message.digest_for_data
pki_message.digest_for_data = lambda algorithm, data: digest_of(algorithm, data or b"")
Certificate.is_ca = property(lambda self: bool(self.to_asn1_certificate().ca))
CACertificates.recipient = property(lambda self: self.signer)
CACertificates.issuer = property(
    lambda self: next(each for each in self.certificates if each.subject == self.signer.issuer)
)


def _write(path: Path, certificate: Any) -> None:
    armor: Any = pem.armor
    path.write_bytes(armor("CERTIFICATE", certificate.to_der()))


def _key(name: str) -> Any:
    return PrivateKey.from_pem_file(f"{name}.key")


def _identity(name: str) -> Any:
    """The certificate there is, or one that the key signs."""
    path = Path(f"{name}.crt")
    if path.exists():
        return Certificate.from_pem_file(str(path))
    made, _ = SigningRequest.generate_self_signed(name, USAGE, _key(name))
    _write(path.with_suffix(".self"), made)
    return made


def _store(name: str, result: Any) -> Outcome:
    """Write what there is and say how it went."""
    if result.status is PKIStatus.FAILURE:
        return {"status": "failure", "failInfo": str(result.fail_info)}
    if result.status is PKIStatus.PENDING:
        Path(f"{name}.transaction").write_text(result.transaction_id)
        return {"status": "pending"}
    if result.crl is not None:
        Path(f"{name}.crl").write_bytes(result.crl.to_der())
    else:
        (certificate,) = result.certificates
        _write(Path(f"{name}.crt"), certificate)
    return {"status": "success"}


def enrol(client: Any, name: str, challenge: str) -> Outcome:
    request, _ = SigningRequest.generate_csr(name, USAGE, challenge, _key(name))
    return _store(name, client.enrol(request, _identity(name), _key(name)))


def poll(client: Any, name: str) -> Outcome:
    own = Certificate.from_pem_file(f"{name}.self")
    transaction = Path(f"{name}.transaction").read_text()
    found = client.poll(own, _key(name), own.subject, transaction)
    return _store(name, found)


def renew(client: Any, name: str) -> Outcome:
    new_key = SigningRequest.generate_pair()
    request, _ = SigningRequest.generate_csr(name, USAGE, None, new_key)
    outcome = _store(name, client.enrol(request, _identity(name), _key(name)))
    Path(f"{name}.key").write_bytes(new_key.to_pem())
    return outcome


def getcert(client: Any, name: str, serial: str) -> Outcome:
    found = client.get_cert(_identity(name), _key(name), int(serial, 16))
    return _store(f"{name}.found", found)


def getcrl(client: Any, name: str, serial: str) -> Outcome:
    return _store(name, client.get_crl(_identity(name), _key(name), int(serial, 16)))


if __name__ == "__main__":
    url, operation, *words = sys.argv[1:]
    print(json.dumps(globals()[operation](Client(url), *words)))
