"""A signing HTTP client of a few lines, which hands back responses as they came."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from interop.target import Target


def b64(data: bytes) -> str:
    """base64url without padding (RFC 8555 section 6.1)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Answer:
    """Status, header lines in order, body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Signer:
    """An ES256 account key; `kid` is used once it is set (RFC 8555 section 6.2)."""

    target: Target
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    kid: str = ""

    def jwk(self) -> dict[str, str]:
        """The public key (RFC 7518 section 6.2.1)."""
        numbers = self.key.public_key().public_numbers()
        x, y = (b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    def thumbprint(self) -> str:
        """RFC 7638."""
        canonical = json.dumps(self.jwk(), sort_keys=True, separators=(",", ":")).encode()
        digest = hashes.Hash(hashes.SHA256())
        digest.update(canonical)
        return b64(digest.finalize())

    def request(self, url: str, method: str = "GET", data: bytes | None = None) -> Answer:
        """One exchange; error statuses are answers like others."""
        request = urllib.request.Request(url, data, method=method)
        request.add_header("User-Agent", "acme.sh rules")
        request.add_header("Content-Type", "application/jose+json")
        context = ssl.create_default_context(cafile=str(self.target.ca_bundle))
        try:
            with urllib.request.urlopen(request, context=context, timeout=60) as response:
                return Answer(response.status, response.headers.items(), response.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, refusal.headers.items(), refusal.read())

    def post(self, url: str, payload: dict[str, Any] | None, nonce: str) -> Answer:
        """A signed POST, or POST-as-GET where `payload` is None (section 6.3)."""
        protected: dict[str, Any] = {"alg": "ES256", "nonce": nonce, "url": url}
        protected |= {"kid": self.kid} if self.kid else {"jwk": self.jwk()}
        head = b64(json.dumps(protected).encode())
        body = "" if payload is None else b64(json.dumps(payload).encode())
        der = self.key.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        signature = b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        message = {"protected": head, "payload": body, "signature": signature}
        return self.request(url, "POST", json.dumps(message).encode())
