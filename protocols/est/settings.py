"""`[est.NAME]`: one EST label."""

import datetime as dt
from typing import Literal

from pydantic import Field

from pkiserver.config import Section
from pkiserver.config_types import Duration, DurationOrZero, KeyKind, Limit, Rate

Method = Literal["basic", "mtls"]


class ESTSettings(Section):
    """EST at `/.well-known/est/NAME/`; `default` at `/.well-known/est/` as well."""

    profile: str = Field("device", description="Profile of the certificates")
    auth: tuple[Method, ...] = Field(
        ("basic", "mtls"), min_length=1, description="How clients may prove who they are"
    )
    auth_require: Literal["any", "all"] = Field(
        "any", description="Whether one of `auth` is enough, or all are needed"
    )
    client_ca: tuple[str, ...] = Field(
        (),
        description="PEM files with outside CAs whose client certificates may enrol (factory "
        "certificates); every certificate in them is an anchor",
    )
    client_crl: tuple[str, ...] = Field(
        (),
        description="Files with CRLs of those CAs, PEM or DER; with any, certificates from outside "
        "are taken only if current lists say that none of the path is revoked",
    )
    client_profiles: tuple[str, ...] = Field(
        (),
        description="Profiles, besides the label's own, whose certificates are taken as client "
        "certificates: those of registration authorities, or of a profile before this one",
    )
    certificate_names: Literal["own", "any"] = Field(
        "own",
        description="Names a client certificate may enrol for: those that are in it, or any the "
        "profile allows",
    )
    change_subject: bool = Field(
        False, description="Re-enrolment may ask for other names by ChangeSubjectName (RFC 6402)"
    )
    registration_authorities: bool = Field(
        False,
        description="Certificates of ours with the purpose id-kp-cmcRA may enrol for others",
    )
    proof_of_possession: Literal["off", "if-present", "required"] = Field(
        "if-present",
        description="Whether requests are tied to the TLS connection by tls-unique (TLS 1.2 only)",
    )
    csr_attributes: Literal["both", "classic", "template", "none"] = Field(
        "both", description="What csrattrs says: attributes of RFC 7030, the template of RFC 9908"
    )
    key_kind: KeyKind | None = Field(
        None, description="Kind of key that csrattrs asks for; default: the profile's, if it is one"
    )
    server_keys: KeyKind | Literal["off"] = Field(
        "p256", description="Kind of key that serverkeygen makes; off: there is no serverkeygen"
    )
    repeat: DurationOrZero = Field(
        dt.timedelta(minutes=10),
        description="Time in which the same request gets the same certificate again",
    )
    retry_after: Duration = Field(
        dt.timedelta(minutes=1), description="When to ask again while a person has to approve"
    )
    enrolments_per_client: Limit = Field(
        Rate(count=300, period=dt.timedelta(hours=1)),
        description="New certificates per user or client certificate; those got by renewing it "
        "count as well",
    )
    failures_per_address: Limit = Field(
        Rate(count=30, period=dt.timedelta(minutes=15)), description="Failed logins per address"
    )
    failures_per_user: Limit = Field(
        Rate(count=10, period=dt.timedelta(minutes=15)), description="Failed logins per user"
    )
    refusals_per_client: Limit = Field(
        Rate(count=100, period=dt.timedelta(minutes=15)),
        description="Refused requests per user or client certificate, in each worker; each is in "
        "the audit log, and beyond that the client has to wait",
    )
