"""Settings of what relying parties are told: OCSP answers and CRLs."""

import datetime as dt
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pkiserver.config_types import Duration, DurationOrZero, Section


class OCSPSettings(Section):
    """Status responses."""

    validity: Duration = Field(dt.timedelta(hours=24), description="nextUpdate after thisUpdate")
    responder_validity: Duration = Field(
        dt.timedelta(days=30), description="Lifetime of a delegated responder's certificate"
    )
    unissued: Literal["unauthorized", "unknown", "revoked"] = Field(
        "unauthorized",
        description="Said of serial numbers that were never issued; revoked: RFC 6960's extended "
        "definition, revoked since 1970",
    )
    max_age: DurationOrZero = Field(
        dt.timedelta(minutes=5),
        description="How long HTTP caches may keep an answer: so long can a revocation stay unseen "
        "behind one",
    )
    archive_cutoff: DurationOrZero = Field(
        dt.timedelta(0),
        description="Answers about expired certificates say that status is kept for so long after "
        "expiry; 0s: they do not",
    )


class CRLSettings(Section):
    """Revocation lists."""

    validity: Duration = Field(dt.timedelta(days=7), description="nextUpdate after thisUpdate")
    refresh: Duration = Field(dt.timedelta(hours=12), description="A new list at least this often")
    delta: DurationOrZero = Field(
        dt.timedelta(0), description="Lifetime of delta lists; 0s: there are none"
    )
    shards: int = Field(
        1,
        ge=1,
        le=1024,
        description="Lists the end entities of an issuer are spread over: a power of two; the "
        "certificates issued from then on name theirs",
    )
    scopes: Literal["all", "split"] = Field(
        "all", description="split: a list for CA certificates and another one for end entities"
    )

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value.bit_count() != 1:
            raise ValueError("write a power of two: 1, 2, 4, 8 ... 1024")
        return value

    @model_validator(mode="after")
    def _delta_is_shorter(self) -> Self:
        if self.delta > self.validity:
            raise ValueError("delta: a delta list does not outlive the complete one (validity)")
        return self
