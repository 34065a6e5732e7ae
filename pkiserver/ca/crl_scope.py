"""Which certificates of an issuer a list covers, where it is found, and which of them a new
certificate names (RFC 5280 sections 4.2.1.13, 4.2.1.15, 5.2.5 and 5.2.6).

    {issuer}.crl           every certificate; always there, without a critical extension
    {issuer}.ca.crl        certificates of CAs           ([crl] scopes = "split")
    {issuer}.user.crl      certificates of end entities  ([crl] scopes = "split")
    {issuer}.N.I.crl       end entities, shard I of N    ([crl] shards = N)

and each with `.delta` before `.crl`. Names of authorities have no dot, so none of these can be
another authority's. N is in the URL: a shard is cut by bits of the serial number, so lists of
another N cover what they always did, and go on as long as a certificate points to one of them.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cryptography import x509

from pkiserver.config import CRLSettings

BUCKETS = 1024
"""Serial numbers fall into so many buckets, and a shard is a range of them."""
CA_BUCKET = BUCKETS
_BEFORE_BUCKETS = -1
_STEP = 16

_FILE = re.compile(
    r"([a-z0-9][a-z0-9-]{0,62})"
    r"(?:\.(ca|user|[1-9][0-9]{0,3}\.(?:0|[1-9][0-9]{0,3})))?(\.delta)?\.crl"
)


def bucket_of(serial: int, *, ca: bool) -> int:
    """Ten low bits: as random as the rest of a serial number of ours."""
    return CA_BUCKET if ca else serial % BUCKETS


@dataclass(frozen=True, slots=True)
class Scope:
    """`covers` is "all", "ca" or "user"; only user lists are sharded."""

    covers: str = "all"
    shards: int = 1
    index: int = 0

    @property
    def name(self) -> str:
        """In URLs and in the database; empty for the list of everything."""
        if self.shards > 1:
            return f"{self.shards}.{self.index}"
        return "" if self.covers == "all" else self.covers

    @property
    def group(self) -> str:
        """What all lists of one way to cut have in common."""
        return str(self.shards) if self.shards > 1 else self.name

    @property
    def buckets(self) -> tuple[int, int]:
        """The first bucket and the last."""
        if self.covers == "ca":
            return CA_BUCKET, CA_BUCKET
        if self.shards > 1:
            width = BUCKETS // self.shards
            return self.index * width, (self.index + 1) * width - 1
        return _BEFORE_BUCKETS, CA_BUCKET if self.covers == "all" else BUCKETS - 1

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The buckets in steps that are read one at a time."""
        low, high = self.buckets
        while low <= high:
            # A step ends before the bucket of the CAs, and the one before all buckets is its own.
            end = low if low < 0 else min(high, low + _STEP - 1 if low < CA_BUCKET else low)
            yield low, end
            low = end + 1


FULL = Scope()
CAS = Scope("ca")
USERS = Scope("user")


def parse_file(file: str) -> tuple[str, Scope, bool] | None:
    """Issuer, scope, and whether it is the delta; None for what is no name of a list."""
    match = _FILE.fullmatch(file)
    if match is None:
        return None
    scope = parse_scope(match[2] or "")
    return None if scope is None else (match[1], scope, match[3] is not None)


def parse_scope(name: str) -> Scope | None:
    """The reverse of `Scope.name`."""
    if name in ("ca", "user"):
        return Scope(name)
    if not name:
        return FULL
    shards, _, index = name.partition(".")
    made = Scope("user", int(shards), int(index))
    sound = 1 < made.shards <= BUCKETS and made.shards.bit_count() == 1
    return made if sound and made.index < made.shards else None


def file_name(issuer: str, scope: Scope, *, delta: bool = False) -> str:
    parts = [issuer, scope.name, "delta" if delta else "", "crl"]
    return ".".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Point:
    """Lists that certificates point to: their `Scope.group`, the base URL, and whether the
    certificates name a delta as well."""

    group: str
    base: str
    delta: bool


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where the lists of an issuer are, by the present configuration."""

    issuer: str
    base: str
    settings: CRLSettings

    def scope(self, serial: int, *, ca: bool) -> Scope:
        """The list a new certificate names."""
        split = self.settings.scopes == "split"
        if ca:
            return CAS if split else FULL
        if self.settings.shards > 1:
            shards = self.settings.shards
            return Scope("user", shards, bucket_of(serial, ca=False) * shards // BUCKETS)
        return USERS if split else FULL

    def point(self, serial: int, *, ca: bool) -> Point | None:
        """What has to be remembered of a new certificate; None if its list is there anyway."""
        group, delta = self.scope(serial, ca=ca).group, bool(self.settings.delta)
        return Point(group, self.base, delta) if group or delta else None

    def url(self, scope: Scope, *, delta: bool = False) -> str:
        return _url(self.base, self.issuer, scope, delta=delta)

    def extensions(self, scope: Scope) -> Iterator[tuple[x509.ExtensionType, bool]]:
        """Of a certificate that names this list: where it is, and whether that is critical."""
        yield x509.CRLDistributionPoints([_named(self.url(scope))]), False
        if self.settings.delta:
            yield x509.FreshestCRL([_named(self.url(scope, delta=True))]), False

    def scopes(self, points: Collection[Point], published: Collection[Scope]) -> tuple[Scope, ...]:
        """The lists to keep up, small ones first: `published` are those of CAs and of end entities
        there are, which go on with their issuer once they have begun."""
        sets = sorted({int(point.group) for point in points if point.group.isdigit()})
        shards = [Scope("user", n, index) for n in sets for index in range(n)]
        others = [each for each in (CAS, USERS) if self.keeps(each, points, published)]
        return (*shards, *others, FULL)

    def keeps(self, scope: Scope, points: Collection[Point], published: Collection[Scope]) -> bool:
        """Whether there is to be a list of that scope."""
        if scope == FULL or scope in published or any(p.group == scope.group for p in points):
            return True
        split = self.settings.scopes == "split"
        return split and (scope == CAS or scope == USERS and self.settings.shards == 1)

    def has_delta(self, scope: Scope, points: Collection[Point]) -> bool:
        """Whether its certificates are told of a delta, or were."""
        told = any(point.delta and point.group == scope.group for point in points)
        return bool(self.settings.delta) or told

    def urls(self, scope: Scope, points: Collection[Point]) -> tuple[str, ...]:
        """Where certificates say the list is. Verifiers compare octet for octet, so those from
        before the base URL changed go on to be named."""
        bases = {point.base for point in points if point.group == scope.group}
        others = sorted(bases - {self.base})
        return tuple(_url(base, self.issuer, scope) for base in (self.base, *others))


def _url(base: str, issuer: str, scope: Scope, *, delta: bool = False) -> str:
    return f"{base}/crl/{file_name(issuer, scope, delta=delta)}"


def _named(url: str) -> x509.DistributionPoint:
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
