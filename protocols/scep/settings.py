"""`[scep.NAME]`: one SCEP service."""

import datetime as dt
from typing import Literal

from pydantic import Field

from pkiserver.config_types import Duration, DurationOrZero, Limit, Rate
from protocols.scep.challenge_settings import ChallengeSettings

RegistrationKey = Literal["rsa-2048", "rsa-3072", "rsa-4096"]


class SCEPSettings(ChallengeSettings):
    """A SCEP service at `/scep/NAME`, over HTTP and HTTPS."""

    profile: str = Field("device", description="Profile of the certificates")
    renewal: bool = Field(
        True, description="A certificate of the profile may be renewed with its own key alone"
    )
    renewal_window: DurationOrZero = Field(
        dt.timedelta(0), description="Renewal is possible this long before the end; 0s: any time"
    )
    renewal_grace: DurationOrZero = Field(
        dt.timedelta(0), description="And this long after it has expired"
    )
    legacy: bool = Field(
        False, description="Accept MD5, SHA-1 and single DES from devices that have nothing else"
    )
    registration_key: RegistrationKey = Field(
        "rsa-2048", description="Key of the registration authority that devices encrypt for"
    )
    registration_validity: Duration = Field(
        dt.timedelta(days=365), description="Lifetime of its certificate"
    )
    chain: Literal["issuer", "full"] = Field(
        "full", description="GetCACert sends the issuing CA, or all certificates up to the root"
    )
    retention: Duration = Field(
        dt.timedelta(days=30),
        description="A transaction that is repeated within this time gets the same certificate",
    )
    enrolments_per_device: Limit = Field(
        Rate(count=60, period=dt.timedelta(hours=1)),
        description="New certificates per subject and names",
    )
    failures_per_address: Limit = Field(
        Rate(count=60, period=dt.timedelta(hours=1)),
        description="Refused requests per address (or IPv6 /64), counted by each process",
    )
