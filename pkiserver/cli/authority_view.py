"""An authority for people and for JSON: `ca list`, `ca show` and what makes or changes one."""

import datetime as dt
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pkiserver.ca.authority_store import Outstanding
from pkiserver.ca.model import Authority, AuthorityStatus, Turn
from pkiserver.cli.output import moment, print_json, print_members
from pkiserver.core import Core
from pkiserver.errors import PKIError
from pkiserver.pkix import algorithms, cert, constraints

_ROTATE_WITHIN = 4
"""A new generation is recommended for the last such part of an authority's life."""
_FINGERPRINTS = ("sha256", "sha1")


def summary(core: Core, authority: Authority) -> dict[str, Any]:
    """A row of the list."""
    own = authority.certificate
    turn = core.services.authorities.turn(authority.name)
    ended = authority.status in (AuthorityStatus.RETIRED, AuthorityStatus.CLOSED)
    return {
        "name": authority.name,
        "parent": authority.parent,
        "status": authority.status,
        "revoked": core.services.authorities.is_revoked(authority.name),
        "turn": None if ended and turn is Turn.CURRENT else turn,
        "subject": None if own is None else own.subject.rfc4514_string(),
        "key": None if own is None else algorithms.describe(own.public_key()),
        "signing_key": _signing_key(core, authority),
        "not_before": None if own is None else moment(own.not_valid_before_utc),
        "not_after": None if own is None else moment(own.not_valid_after_utc),
    }


async def details(core: Core, authority: Authority) -> dict[str, Any]:
    """Everything."""
    authorities, name = core.services.authorities, authority.name
    shown = summary(core, authority)
    coming = authorities.successor(name)
    left = await authorities.outstanding(name)
    shown |= {
        "generations": [each.name for each in authorities.line(name)],
        "successor": None if coming is None else coming.name,
        "takes_over": moment(authorities.takes_over(name)),
        "valid_certificates": left.count,
        "last_expires": moment(left.last),
        "next_step": next_step(core, authority, left) or None,
    }
    own = authority.certificate
    return shown if own is None else shown | _of(core, name, own)


def print_authority(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(shown)
    else:
        shown |= {name: _fingerprint(shown[name]) for name in _FINGERPRINTS if name in shown}
        print_members({**shown, "status": standing(shown), "revoked": None})


def standing(shown: dict[str, Any]) -> str:
    """Its status for people."""
    return f"{shown['status']}, revoked" if shown["revoked"] else str(shown["status"])


def _fingerprint(digest: str) -> str:
    """As other programs show it, and the card of `up`."""
    return bytes.fromhex(digest).hex(":").upper()


def next_step(core: Core, authority: Authority, left: Outstanding) -> str:
    """What an operator does about the authority next; empty if nothing is to be done."""
    name, now = authority.name, core.services.clock.now()
    match authority.status:
        case AuthorityStatus.PENDING:
            return f"have its request signed, then: pkiserver ca install {name} FILE"
        case AuthorityStatus.CLOSED:
            return ""
        case AuthorityStatus.RETIRED if left.count and left.last is not None:
            return f"wait until {moment(left.last)}, when the last certificate expires"
        case AuthorityStatus.RETIRED:
            return f"pkiserver ca retire {name} --final"
    turn = core.services.authorities.turn(name)
    if core.services.authorities.is_revoked(name) and turn is not Turn.PREVIOUS:
        return f"its certificate is revoked: pkiserver ca {_instead(authority, turn)}"
    match turn:
        case Turn.NEXT:
            when = core.services.authorities.takes_over(name)
            then = f"it takes over at {moment(when)}" if when else f"pkiserver ca activate {name}"
            return f"let the clients learn of it ({_where(core, authority)}), then: {then}"
        case Turn.PREVIOUS:
            return f"pkiserver ca retire {name}"
    own = authority.certificate
    if own is not None and _near_its_end(own, now):
        return f"pkiserver ca rotate {name}"
    return ""


def _instead(authority: Authority, turn: Turn) -> str:
    """A root that is revoked links no other one."""
    if turn is Turn.NEXT:
        return f"retire {authority.name}"
    return f"rotate {authority.name}" if _is_below(authority) else "create NAME --root"


def _is_below(authority: Authority) -> bool:
    return authority.parent is not None or bool(authority.outside)


def _where(core: Core, authority: Authority) -> str:
    base = core.services.settings.server.http_base
    name = authority.name
    return f"{base}/ca/{name}.cer" if _is_below(authority) else f"{base}/roots.pem"


def _near_its_end(own: x509.Certificate, now: dt.datetime) -> bool:
    lifetime = own.not_valid_after_utc - own.not_valid_before_utc
    return now > own.not_valid_after_utc - lifetime / _ROTATE_WITHIN


def _signing_key(core: Core, authority: Authority) -> str:
    if authority.status is AuthorityStatus.CLOSED:
        return "destroyed"
    try:
        core.services.authorities.key(authority.name)
    except PKIError:
        return "offline"
    return "here"


def _of(core: Core, name: str, own: x509.Certificate) -> dict[str, Any]:
    base = core.services.settings.server.http_base
    return {
        "issuer": own.issuer.rfc4514_string(),
        "serial": cert.serial_hex(own.serial_number),
        "sha256": own.fingerprint(hashes.SHA256()).hex(),
        "sha1": own.fingerprint(hashes.SHA1()).hex(),  # noqa: S303  what devices and MDMs ask for
        "path_length": _path_length(own),
        **_constraints(own),
        "chains": len(core.services.authorities.chains(name)),
        "crl_url": f"{base}/crl/{name}.crl",
        "ocsp_url": f"{base}/ocsp/{name}",
        "certificate_url": f"{base}/ca/{name}.cer",
    }


def _path_length(certificate: x509.Certificate) -> int | None:
    try:
        value = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None
    return value.path_length


def _constraints(certificate: x509.Certificate) -> dict[str, list[str]]:
    try:
        value = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return {"permitted": [], "excluded": []}
    return {
        "permitted": [constraints.shown(each) for each in value.permitted_subtrees or []],
        "excluded": [constraints.shown(each) for each in value.excluded_subtrees or []],
    }
