"""A challenge that all devices of a section share, and none at all."""

import hashlib
import hmac

from pkiserver.addresses import site
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.web.failures import Failures
from protocols.scep.challenge import Accepted, ChallengeRequest
from protocols.scep.secret import Secret

_SHORTEST = 8


class StaticChallenge:
    """Compares in constant time; a `Validator`."""

    def __init__(self, label: str, secret: Secret) -> None:
        self._label = label
        self._secret = secret

    def check(self) -> None:
        """Raises `PKIError` CONFIGURATION if the secret is not there or too short."""
        if len(self._secret.read()) < _SHORTEST:
            raise configuration_error(
                f"{self._secret.place}: a challenge has at least {_SHORTEST} characters"
            )

    async def validate(self, request: ChallengeRequest) -> Accepted:
        try:
            self.check()
            expected = self._secret.read()
        except PKIError as error:
            raise PKIError(
                ErrorCode.UNAVAILABLE, "the challenge cannot be checked now", rule=error.detail
            ) from error
        # The digests have one length, so neither content nor length shows in the time it takes.
        if request.challenge is None or not hmac.compare_digest(
            _digest(request.challenge), _digest(expected)
        ):
            raise PKIError(
                ErrorCode.UNAUTHORIZED,
                "the challenge password is wrong or missing",
                rule="scep.challenge.static",
            )
        return Accepted(party=f"{self._label}/static")


class NoChallenge:
    """For profiles whose certificates a person approves; a `Validator`. Requests of an address
    count against `limit`, so that one client does not fill the list that a person looks through."""

    def __init__(self, label: str, limit: Failures) -> None:
        self._label = label
        self._limit = limit

    async def validate(self, request: ChallengeRequest) -> Accepted:
        self._limit.check(site(request.address))
        self._limit.count(site(request.address))
        return Accepted(party=f"{self._label}/anonymous")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
