"""An ACME client for tests and benchmarks. It shares no code with the server: it encodes and signs
by itself, so that a mistake in one is not hidden by the same mistake in the other.

`Signer` makes request bodies of any key and algorithm, and broken ones; `ACMEClient` speaks to a
server through an `httpx.AsyncClient`, which may run the application in process.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

CONTENT_TYPE = "application/jose+json"
AccountKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Tamper = Callable[[dict[str, Any]], object]
_CURVES: dict[str, tuple[ec.EllipticCurve, str, hashes.HashAlgorithm]] = {
    "ES256": (ec.SECP256R1(), "P-256", hashes.SHA256()),
    "ES384": (ec.SECP384R1(), "P-384", hashes.SHA384()),
    "ES512": (ec.SECP521R1(), "P-521", hashes.SHA512()),
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def dump(value: object) -> bytes:
    """A payload: octets as they are, None for POST-as-GET, anything else as JSON."""
    if value is None:
        return b""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def new_key(algorithm: str = "ES256") -> AccountKey:
    """A key that signs with this algorithm."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm][0])
    return rsa.generate_private_key(65537, 2048)


def _uint(number: int, size: int = 0) -> str:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


def public_jwk(key: AccountKey) -> dict[str, str]:
    """The public JWK of a private key."""
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "n": _uint(rsa_numbers.n), "e": _uint(rsa_numbers.e)}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        x = b64(key.public_key().public_bytes_raw())
        return {"kty": "OKP", "crv": "Ed25519", "x": x}
    size, ec_numbers = (key.key_size + 7) // 8, key.public_key().public_numbers()
    crv = {256: "P-256", 384: "P-384", 521: "P-521"}[key.key_size]
    x, y = _uint(ec_numbers.x, size), _uint(ec_numbers.y, size)
    return {"kty": "EC", "crv": crv, "x": x, "y": y}


def raw_signature(key: AccountKey, algorithm: str, data: bytes) -> bytes:
    """A signature in the form of JWS."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_CURVES[algorithm][2])))
        size = (key.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if algorithm == "PS256":
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        return key.sign(data, pss, hashes.SHA256())
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def flattened(
    header: Mapping[str, Any], payload: bytes, sign: Callable[[bytes], bytes]
) -> dict[str, Any]:
    """A JWS in the flattened form."""
    protected, content = b64(json.dumps(header).encode()), b64(payload)
    signature = sign(f"{protected}.{content}".encode())
    return {"protected": protected, "payload": content, "signature": b64(signature)}


@dataclass(frozen=True)
class Signer:
    """A key that signs requests, in the name of the account `kid` if there is one.

    `header` members given to `sign` are added to the protected header, or taken away if None;
    `tamper` changes the finished JWS or returns something else to send in its place.
    """

    key: AccountKey = field(default_factory=new_key, repr=False)
    algorithm: str = "ES256"
    kid: str | None = None

    @property
    def jwk(self) -> dict[str, str]:
        return public_jwk(self.key)

    @property
    def thumbprint(self) -> str:
        canonical = json.dumps(self.jwk, sort_keys=True, separators=(",", ":"))
        return b64(hashlib.sha256(canonical.encode()).digest())

    def key_authorization(self, token: str) -> str:
        return f"{token}.{self.thumbprint}"

    def sign(
        self,
        url: str,
        payload: object,
        *,
        nonce: str | None,
        header: Mapping[str, Any] | None = None,
        tamper: Tamper | None = None,
    ) -> bytes:
        """The body of a request."""
        jws = flattened(
            self._header(url, nonce, header or {}),
            dump(payload),
            lambda data: raw_signature(self.key, self.algorithm, data),
        )
        changed = tamper(jws) if tamper else None
        return dump(jws if changed is None else changed)

    def _header(self, url: str, nonce: str | None, extra: Mapping[str, Any]) -> dict[str, Any]:
        members: dict[str, Any] = {"alg": self.algorithm, "nonce": nonce, "url": url}
        members |= {"kid": self.kid} if self.kid else {"jwk": self.jwk}
        members |= extra
        return {name: value for name, value in members.items() if value is not None}

    def key_change(self, new: "Signer", url: str, **changes: Any) -> dict[str, Any]:
        """The payload that gives this account the key of `new` (RFC 8555 section 7.3.5)."""
        payload = {"account": self.kid, "oldKey": self.jwk} | changes
        inner = replace(new, kid=None).sign(url, payload, nonce=None)
        return dict(json.loads(inner))


def external_account_binding(
    jwk: Mapping[str, Any], url: str, key_id: str, mac_key: bytes, algorithm: str = "HS256",
    **extra: Any,
) -> dict[str, Any]:  # fmt: skip
    """The binding of RFC 8555 section 7.3.4; `extra` members go into its protected header."""
    header = {"alg": algorithm, "kid": key_id, "url": url} | extra
    return flattened(
        header,
        json.dumps(jwk).encode(),
        lambda data: hmac.digest(mac_key, data, f"sha{algorithm[2:]}"),
    )


def make_csr(
    names: Sequence[str], *, addresses: Sequence[x509.GeneralName] = (),
    common_name: str | None = None, key: ec.EllipticCurvePrivateKey | None = None,
) -> tuple[bytes, ec.EllipticCurvePrivateKey]:  # fmt: skip
    """A CSR in DER for DNS names and whatever else, and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    alternatives = [*map(x509.DNSName, names), *addresses]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), key


class ACMEClient:
    """One account at one directory. Requests retry once after badNonce, as real clients do."""

    def __init__(
        self, http: httpx.AsyncClient, directory_url: str, signer: Signer | None = None
    ) -> None:
        self.http = http
        self.directory_url = directory_url
        self.signer = signer or Signer()
        self.directory: dict[str, Any] = {}
        self._nonces: list[str] = []

    async def start(self) -> "ACMEClient":
        """Read the directory."""
        self.directory = (await self.http.get(self.directory_url)).json()
        return self

    async def nonce(self) -> str:
        if self._nonces:
            return self._nonces.pop()
        response = await self.http.head(self.directory["newNonce"])
        return str(response.headers["replay-nonce"])

    async def post(
        self,
        url: str,
        payload: object = None,
        *,
        signer: Signer | None = None,
        header: Mapping[str, Any] | None = None,
        tamper: Tamper | None = None,
        content_type: str = CONTENT_TYPE,
        retry: bool = True,
    ) -> httpx.Response:
        """A signed POST; with no payload, POST-as-GET."""
        body = (signer or self.signer).sign(
            url, payload, nonce=await self.nonce(), header=header, tamper=tamper
        )
        response = await self.http.post(url, content=body, headers={"Content-Type": content_type})
        if "replay-nonce" in response.headers:
            self._nonces.append(response.headers["replay-nonce"])
        if retry and response.status_code == 400 and b":badNonce" in response.content:
            return await self.post(
                url, payload, signer=signer, header=header, tamper=tamper,
                content_type=content_type, retry=False,
            )  # fmt: skip
        return response

    async def new_account(self, **members: Any) -> httpx.Response:
        """Register the key, or find its account, and sign with the kid from then on."""
        self.signer = replace(self.signer, kid=None)
        payload = {"termsOfServiceAgreed": True} | members
        response = await self.post(self.directory["newAccount"], payload)
        if response.is_success:
            self.signer = replace(self.signer, kid=response.headers["location"])
        return response

    async def new_order(self, identifiers: Sequence[object], **members: Any) -> httpx.Response:
        """Identifiers are DNS names or whole objects."""
        objects = [
            {"type": "dns", "value": item} if isinstance(item, str) else item
            for item in identifiers
        ]
        return await self.post(self.directory["newOrder"], {"identifiers": objects} | members)

    async def answer(
        self, authorization_url: str, challenge_type: str,
        publish: Callable[[dict[str, Any], dict[str, Any], str], Awaitable[None]],
    ) -> httpx.Response:  # fmt: skip
        """Publish the key authorization of a pending authorization's challenge and say so.
        `publish` gets the authorization, the challenge and the key authorization."""
        authorization = (await self.post(authorization_url)).json()
        challenge = next(c for c in authorization["challenges"] if c["type"] == challenge_type)
        proof = self.signer.key_authorization(challenge["token"])
        await publish(authorization, challenge, proof)
        return await self.post(challenge["url"], {})

    async def finalize(self, order: Mapping[str, Any], csr: bytes) -> httpx.Response:
        return await self.post(order["finalize"], {"csr": b64(csr)})

    async def revoke(self, certificate: bytes, **members: Any) -> httpx.Response:
        payload = {"certificate": b64(certificate)} | members
        return await self.post(self.directory["revokeCert"], payload)
