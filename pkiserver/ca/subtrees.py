"""Name constraints written by a person: `dns:example.com`, `email:example.com`, `uri:.example.com`,
`ip:10.0.0.0/8`, `dirname:O=Example,C=CH`, as subtrees of RFC 5280 section 4.2.1.10."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from cryptography import x509

from pkiserver.errors import PKIError, configuration_error
from pkiserver.pkix import names
from pkiserver.pkix.subject import SubjectTemplate

MAX_SUBTREES = 200


def name_constraints(
    permitted: Iterable[str] = (), excluded: Iterable[str] = ()
) -> x509.NameConstraints | None:
    """None where nothing is constrained. Raises `PKIError` CONFIGURATION."""
    allowed = [_subtree(text) for text in permitted]
    denied = [_subtree(text) for text in excluded]
    if len(allowed) + len(denied) > MAX_SUBTREES:
        raise configuration_error(f"name constraints: more than {MAX_SUBTREES} subtrees")
    if not allowed and not denied:
        return None
    return x509.NameConstraints(allowed or None, denied or None)


def _subtree(text: str) -> x509.GeneralName:
    form, _, value = text.partition(":")
    read = _FORMS.get(form.strip().lower())
    if read is None:
        raise configuration_error(
            f"name constraint {text!r}: write one of {', '.join(_FORMS)}, a colon and the subtree"
        )
    try:
        return read(value.strip())
    except (PKIError, ValueError) as error:
        raise configuration_error(f"name constraint {text!r}: {error}") from error


def _dns(value: str) -> x509.GeneralName:
    # Labels are added on the left anyway; the leading dot that some write is not RFC 5280's.
    return x509.DNSName(_host(value.removeprefix(".")))


def _host(value: str) -> str:
    if "*" in value:
        raise ValueError("a subtree has no wildcards; it covers the names below anyway")
    return names.dns_name(value).value


def _hosts(value: str) -> str:
    """One host, or with a leading dot all those below."""
    dot = "." if value.startswith(".") else ""
    return dot + _host(value.removeprefix("."))


def _email(value: str) -> x509.GeneralName:
    return x509.RFC822Name(names.email(value).value if "@" in value else _hosts(value))


def _uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(_hosts(value))


def _ip(value: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_network(value))


def _directory(value: str) -> x509.GeneralName:
    return x509.DirectoryName(subject_name(value))


_FORMS: Mapping[str, Callable[[str], x509.GeneralName]] = {
    "dns": _dns,
    "email": _email,
    "uri": _uri,
    "ip": _ip,
    "dirname": _directory,
}


def subject_name(text: str) -> x509.Name:
    """A name from RFC 4514 text, the most special part first: `CN=Example Root,O=Example`. Raises
    `PKIError` CONFIGURATION."""
    template = SubjectTemplate.parse(text)
    if any(not isinstance(part, str) for _, parts in template.rdns for part in parts):
        raise configuration_error(f"subject {text!r}: braces have to be escaped")
    name = template.render({})
    if not name.rdns:
        raise configuration_error("the subject is empty")
    return name
