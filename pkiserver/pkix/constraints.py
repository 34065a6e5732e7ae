"""Name constraints (RFC 5280 section 4.2.1.10), checked before a CA signs.

A name form with permitted subtrees needs a match in one of them, and no name may match an excluded
one. Where the RFC leaves room, the stricter reading is taken: names or subtrees of a form without
defined semantics (other names, user principal names) are refused when the CA constrains that form;
common names that read as host names and e-mail addresses in the subject are checked as well; a
wildcard has to lie in a permitted subtree whole and may not touch an excluded one; a subtree that
is no sound constraint permits nothing and excludes everything.

A caller walks the chain and calls `check` for every CA above the new certificate.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import names
from pkiserver.pkix.names import AltName, NameType

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
RDN = frozenset[tuple[str, str]]

RULE = "name-constraints"

_DOMAIN = re.compile(r"(\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?")
_MAILBOXES = re.compile(r"([^@]+@|\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def check(
    constraints: x509.NameConstraints, alt_names: Iterable[AltName], subject: x509.Name
) -> None:
    """Refuse with `PKIError` REFUSED_NAME, naming the subtree, the first name that violates."""
    permitted = constraints.permitted_subtrees or []
    excluded = constraints.excluded_subtrees or []
    for name in _names_to_check(alt_names, subject):
        for subtree in excluded:
            if subtree_form(subtree) == name.form and _excludes(subtree, name):
                raise _violation(name, f"is excluded by {shown(subtree)}")
        candidates = [tree for tree in permitted if subtree_form(tree) == name.form]
        if candidates and not any(_permits(subtree, name) for subtree in candidates):
            allowed = ", ".join(shown(subtree) for subtree in candidates)
            raise _violation(name, f"is outside the permitted subtrees {allowed}")


def narrows(parent: x509.NameConstraints | None, child: x509.NameConstraints | None) -> bool:
    """Whether the child's constraints promise nothing the parent's withhold.

    Each permitted subtree of the child lies within a permitted one of the parent, where the parent
    permits subtrees of that form, and not within an excluded one. A form the child leaves out, or
    no constraints at all, widens nothing: the parent's go on to apply to whatever is below.
    """
    if parent is None or child is None:
        return True
    excluded = parent.excluded_subtrees or []
    for subtree in child.permitted_subtrees or []:
        form = subtree_form(subtree)
        above = [tree for tree in parent.permitted_subtrees or [] if subtree_form(tree) == form]
        if above and not any(_within(subtree, tree) for tree in above):
            return False
        if any(subtree_form(tree) == form and _within(subtree, tree) for tree in excluded):
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Name:
    """A name to check: `form` as `subtree_form` gives it; `value` is an RDN sequence for
    directory names."""

    form: str
    text: str
    value: AltName | tuple[RDN, ...]


def _names_to_check(alt_names: Iterable[AltName], subject: x509.Name) -> list[_Name]:
    found = [_Name(_form(name), str(name), name) for name in alt_names]
    found += [_Name(_form(name), str(name), name) for name in _names_in(subject)]
    # An empty subject is no name at all (RFC 5280 section 6.1.3 (b)).
    if len(subject.rdns):
        found.append(_Name("directoryName", subject.rfc4514_string(), _rdns(subject)))
    return found


def _names_in(subject: x509.Name) -> list[AltName]:
    """E-mail addresses (section 4.2.1.10 asks for it) and common names clients take for a host:
    an IP address or a DNS name of at least two labels."""
    found: list[AltName] = []
    for attribute in subject:
        if not isinstance(attribute.value, str):
            continue
        if attribute.oid == NameOID.EMAIL_ADDRESS:
            found.append(_email_in_subject(attribute.value))
        if attribute.oid == NameOID.COMMON_NAME and "." in attribute.value:
            found += _read(names.dns_name, attribute.value)
        if attribute.oid == NameOID.COMMON_NAME:
            found += _read(names.ip_address, attribute.value)
    return found


def _email_in_subject(text: str) -> AltName:
    """Text that is no address cannot be shown to lie in or outside a subtree: the empty value
    stands for it, which no subtree permits and every one excludes."""
    return next(iter(_read(names.email, text)), AltName(NameType.EMAIL, ""))


def _read(parse_name: Callable[[str], AltName], text: str) -> list[AltName]:
    try:
        return [parse_name(text)]
    except PKIError:
        return []


_FORMS = {
    NameType.DNS: "dNSName",
    NameType.IP: "iPAddress",
    NameType.EMAIL: "rfc822Name",
    NameType.URI: "uniformResourceIdentifier",
    NameType.UPN: "otherName",
}


def _form(name: AltName) -> str:
    """OTHER holds the GeneralName's form in front of the text."""
    return _FORMS.get(name.type) or name.value.partition(":")[0]


def subtree_form(subtree: x509.GeneralName) -> str:
    """The ASN.1 name of the GeneralName's alternative."""
    match subtree:
        case x509.DNSName():
            return "dNSName"
        case x509.IPAddress():
            return "iPAddress"
        case x509.RFC822Name():
            return "rfc822Name"
        case x509.UniformResourceIdentifier():
            return "uniformResourceIdentifier"
        case x509.DirectoryName():
            return "directoryName"
        case x509.RegisteredID():
            return "registeredID"
    return "otherName"


def _permits(subtree: x509.GeneralName, name: _Name) -> bool:
    match subtree, name.value:
        case x509.DNSName(), AltName() as alt:
            return _in_domain(alt.value.removeprefix("*."), subtree.value, alt.is_wildcard)
        case x509.IPAddress(), AltName() as alt:
            return _in_network(alt, subtree)
        case x509.RFC822Name(), AltName() as alt:
            return _in_mailboxes(alt.value, subtree.value)
        case x509.UniformResourceIdentifier(), AltName() as alt:
            host = _constrained_host(alt)
            return host is not None and _in_hosts(host, subtree.value)
        case x509.DirectoryName(), tuple() as rdns:
            return _starts_with(rdns, _rdns(subtree.value))
    return False


def _excludes(subtree: x509.GeneralName, name: _Name) -> bool:
    match subtree, name.value:
        case x509.DNSName(), AltName() as alt:
            sound = _DOMAIN.fullmatch(subtree.value) is not None
            return not sound or _permits(subtree, name) or _wildcard_touches(alt, subtree.value)
        case x509.RFC822Name(), AltName() as alt:
            # One host may not tell apart the case of local parts, so neither does a prohibition.
            sound = _MAILBOXES.fullmatch(subtree.value) is not None and "@" in alt.value
            return not sound or _in_mailboxes(alt.value.lower(), subtree.value.lower())
        case x509.UniformResourceIdentifier(), AltName() as alt:
            # Section 4.2.1.10: without a host name in it the URI is rejected.
            sound = _DOMAIN.fullmatch(subtree.value) is not None and bool(_constrained_host(alt))
            return not sound or not subtree.value or _permits(subtree, name)
        case (x509.IPAddress(), AltName()) | (x509.DirectoryName(), tuple()):
            return _permits(subtree, name)
    return True


def _in_domain(domain: str, constraint: str, below: bool = False) -> bool:
    """DNS: zero or more labels added on the left. A leading dot, which the RFC does not have for
    DNS but CAs write, asks for at least one. `below`: all of the names under `domain` are meant,
    and not `domain` itself."""
    base = constraint.lower()
    if not base:
        return True
    if base.startswith("."):
        return domain.endswith(base) or (below and domain == base[1:])
    return domain == base or domain.endswith("." + base)


def _wildcard_touches(name: AltName, constraint: str) -> bool:
    """Whether a name the wildcard stands for could lie in the subtree: `*.example.com` and
    `www.example.com`."""
    base = name.value.removeprefix("*")
    return name.is_wildcard and ("." + constraint.lower().lstrip(".")).endswith(base)


def _in_network(name: AltName, subtree: x509.IPAddress) -> bool:
    network = subtree.value
    if not isinstance(network, IPNetwork):
        return False
    address = ipaddress.ip_address(name.value)
    return address.version == network.version and address in network


def _in_hosts(host: str, constraint: str) -> bool:
    """URI and the host part of mailboxes: `.example.com` is every host below, `example.com` is
    that host alone (section 4.2.1.10, unlike DNS)."""
    base = constraint.lower()
    return len(base) > 1 and (host.endswith(base) if base.startswith(".") else host == base)


def _in_mailboxes(mailbox: str, constraint: str) -> bool:
    """A constraint is one mailbox, all of one host, or all of the hosts below a domain."""
    local, _, host = constraint.rpartition("@")
    own_local, _, own_host = mailbox.rpartition("@")
    if local:
        return (own_local, own_host) == (local, host.lower())
    return own_local != "" and "@" not in constraint and _in_hosts(own_host, constraint)


def _constrained_host(name: AltName) -> str | None:
    """The fully qualified host of a URI; None where it is absent or an address."""
    host = names.uri_host(name)
    return None if not host or _read(names.ip_address, host.strip("[]")) else host


def _rdns(name: x509.Name) -> tuple[RDN, ...]:
    """RDNs in a form that compares as section 7.1 asks: no difference in case or white space."""
    return tuple(
        frozenset((a.oid.dotted_string, _prepared(a.value)) for a in rdn) for rdn in name.rdns
    )


def _prepared(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return f"#{value.hex()}"
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def _starts_with(rdns: Sequence[RDN], initial: Sequence[RDN]) -> bool:
    return tuple(rdns[: len(initial)]) == tuple(initial)


def _within(inner: x509.GeneralName, outer: x509.GeneralName) -> bool:
    """Whether a subtree lies within another of the same form."""
    match inner, outer:
        case x509.DNSName(), x509.DNSName():
            below = inner.value.startswith(".")
            return inner == outer or _in_domain(
                inner.value.lower().removeprefix("."), outer.value, below
            )
        case x509.IPAddress(), x509.IPAddress():
            return _subnet(inner.value, outer.value)
        case x509.RFC822Name(), x509.RFC822Name():
            return inner == outer or _mailboxes_within(inner.value, outer.value)
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            return _hosts_within(inner.value, outer.value)
        case x509.DirectoryName(), x509.DirectoryName():
            return _starts_with(_rdns(inner.value), _rdns(outer.value))
    return inner == outer


def _subnet(inner: object, outer: object) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def _mailboxes_within(inner: str, outer: str) -> bool:
    """One mailbox lies in what matches it; hosts and domains compare as hosts do."""
    if "@" in inner:
        local, _, host = inner.rpartition("@")
        return _in_mailboxes(f"{local}@{host.lower()}", outer)
    return "@" not in outer and _hosts_within(inner, outer)


def _hosts_within(inner: str, outer: str) -> bool:
    """`.a.example.com` ends with `.example.com` just as a host does."""
    return inner.lower() == outer.lower() or _in_hosts(inner.lower(), outer)


def shown(subtree: x509.GeneralName) -> str:
    """The subtree for a person to read."""
    value = subtree.value
    text = value.rfc4514_string() if isinstance(value, x509.Name) else str(value)
    return f"{subtree_form(subtree)}:{text}"


def _violation(name: _Name, why: str) -> PKIError:
    text = name.value.value if isinstance(name.value, AltName) else name.text
    return PKIError(
        ErrorCode.REFUSED_NAME, f"{name.text} {why} of the CA", rule=RULE, names=(text,)
    )
