"""External account binding (RFC 8555 section 7.3.4): an inner JWS over the account key, made with
a MAC key that the operator gave to the client. Raises `Problem` and nothing else: malformed for
what is no binding for this request, unauthorized for a MAC that is not right.
"""

import enum
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pkiserver.errors import MalformedMessage
from protocols.acme import jwk as jwk_codec
from protocols.acme.encoding import load_object, string
from protocols.acme.jws import Flattened, parse_flattened, read_url
from protocols.acme.problems import malformed, unauthorized

MAX_KEY_ID = 256


class MACAlgorithm(enum.StrEnum):
    """RFC 7518 section 3.2."""

    HS256 = "HS256"
    HS384 = "HS384"
    HS512 = "HS512"

    @property
    def digest(self) -> str:
        return f"sha{self.value[2:]}"


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of the account key to `key_id`, well-formed; `verify` checks the MAC."""

    key_id: str
    algorithm: MACAlgorithm
    form: Flattened = field(repr=False)


def parse(binding: Mapping[str, Any], *, new_account_url: str, jwk: Mapping[str, Any]) -> Binding:
    """The binding in a newAccount request to `new_account_url` that `jwk` (as sent) signs."""
    try:
        form = parse_flattened(binding)
        algorithm = _algorithm(form.header)
        _check_header(form.header, new_account_url)
        payload = load_object(form.unverified_payload, "The binding's payload")
        # The same key, though maybe written with other members or in another order.
        if jwk_codec.thumbprint(jwk_codec.parse(payload)) != jwk_codec.thumbprint(
            jwk_codec.parse(jwk)
        ):
            raise MalformedMessage("The binding is for another key than the account's")
        return Binding(_key_id(form.header), algorithm, form)
    except MalformedMessage as error:
        raise malformed(f"externalAccountBinding: {error.detail}") from error


def _algorithm(header: Mapping[str, Any]) -> MACAlgorithm:
    try:
        return MACAlgorithm(string(header, "alg", "The binding's header"))
    except ValueError:
        # Not badSignatureAlgorithm, whose `algorithms` a client would read for its account key.
        raise MalformedMessage(f"The binding's 'alg' is one of {', '.join(MACAlgorithm)}") from None


def _check_header(header: Mapping[str, Any], url: str) -> None:
    if "nonce" in header or "jwk" in header:
        raise MalformedMessage("The binding's header has neither 'nonce' nor 'jwk'")
    if read_url(header) != url:
        raise MalformedMessage("The binding has another 'url' than the request")


def _key_id(header: Mapping[str, Any]) -> str:
    """Section 7.3.4: an ASCII string."""
    kid = string(header, "kid", "The binding's header")
    if not (0 < len(kid) <= MAX_KEY_ID and kid.isascii() and kid.isprintable()):
        raise MalformedMessage("The binding's 'kid' is not printable ASCII")
    return kid


def verify(binding: Binding, mac_key: bytes) -> None:
    """Raises unauthorized unless the holder of `mac_key` made the binding."""
    expected = hmac.digest(mac_key, binding.form.signing_input, binding.algorithm.digest)
    if not hmac.compare_digest(expected, binding.form.signature):
        raise unauthorized("externalAccountBinding: the MAC is not right for this kid")
