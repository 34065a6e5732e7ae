"""Policy: what may become a certificate, and by which rule the rest is refused."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.ca.issuer import Issuer, describe
from pkiserver.ca.model import CertificateRequest
from pkiserver.ca.policy import Decision, decide, validity
from pkiserver.ca.profiles import Profile, compile_profiles, key_usage
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import csr
from pkiserver.pkix.names import AltName, NameType, dns_name, email, ip_address, upn, uri
from tests.ca.world import ALICE, NOW, csr_for, new_key, request, settings_of, subject

SECOND = dt.timedelta(seconds=1)
WWW = dns_name("www.example.com")
MAIL = dns_name("mail.example.com")


def ca(
    *extensions: x509.ExtensionType, years: int = 5, start: dt.datetime = NOW
) -> x509.Certificate:
    key = new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject("CA"))
        .issuer_name(subject("CA"))
        .serial_number(7)
        .public_key(key.public_key())
        .not_valid_before(start - dt.timedelta(days=365))
        .not_valid_after(start + dt.timedelta(days=365 * years))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.SubjectKeyIdentifier(b"skid"), False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, True)
    return builder.sign(key, hashes.SHA256())


ISSUER = describe("issuing", [ca()], "http://pki.example")


def profile(**settings: Any) -> Profile:
    base: dict[str, Any] = {
        "extended_key_usage": ["serverAuth"],
        "dns": {"allow": ["*"]},
        "wildcards": True,
    }
    return compile_profiles(settings_of(Path("home"), {"mine": base | settings}))["mine"]


MINE = profile()
CLIENT = profile(
    extended_key_usage=["clientAuth"],
    subject="CN={cn}",
    email={"allow": ["*"]},
    upn={"allow": ["*"]},
    uri={"allow": ["*"]},
    require_name=False,
)


def decision(
    wanted: CertificateRequest, mine: Profile = MINE, issuer: Issuer = ISSUER, **more: Any
) -> Decision:
    parsed = csr.parse(wanted.csr)
    return decide(mine, issuer, wanted, parsed, own_keys=more.get("own_keys", ()), now=NOW)


def refusal(
    wanted: CertificateRequest, mine: Profile = MINE, issuer: Issuer = ISSUER, **more: Any
) -> PKIError:
    with pytest.raises(PKIError) as caught:
        decision(wanted, mine, issuer, **more)
    assert caught.value.rule, "every refusal names its rule"
    return caught.value


# Names: exactly what was authorised


def test_the_certificate_has_exactly_the_authorised_names() -> None:
    found = decision(request(WWW, MAIL))
    assert found.names == (MAIL, WWW)
    assert not found.subject.rdns


@pytest.mark.parametrize("extra", [MAIL, ip_address("192.0.2.1"), email("a@example.com"),
                                   uri("https://www.example.com/"), upn("a@example.com"),
                                   dns_name("*.example.com")])  # fmt: skip
def test_cve_2022_34831_a_name_only_in_the_csr_is_refused_whatever_its_type(
    extra: AltName,
) -> None:
    error = refusal(request(WWW, csr=csr_for([WWW, extra])))
    assert error.code is ErrorCode.BAD_CSR
    assert error.names == (str(extra),)


def test_an_authorised_name_that_the_csr_lacks_is_refused() -> None:
    error = refusal(request(WWW, MAIL, csr=csr_for([WWW])))
    assert (error.code, error.names) == (ErrorCode.BAD_CSR, (str(MAIL),))


def test_foreign_names_in_the_csr_are_refused() -> None:
    directory = x509.SubjectAlternativeName(
        [x509.DNSName("www.example.com"), x509.DirectoryName(subject("x"))]
    )
    error = refusal(request(WWW, csr=csr_for(extensions=[directory])))
    assert error.code is ErrorCode.BAD_CSR


def test_acme_60_a_common_name_counts_as_a_name() -> None:
    assert decision(request(WWW, csr=csr_for(common_name="WWW.example.com"))).names == (WWW,)
    assert refusal(request(WWW, csr=csr_for([WWW], common_name="mail.example.com")))
    assert refusal(request(WWW, csr=csr_for([WWW], common_name="Somebody Else")))


def test_acme_13_an_ip_address_as_common_name_is_that_address() -> None:
    address = ip_address("192.0.2.1")
    mine = profile(ip={"allow": ["*"]})
    wanted = request(address, csr=csr_for(common_name="192.0.2.1"))
    assert decision(wanted, mine).names == (address,)


def test_a_common_name_the_protocol_vouches_for_may_be_any_text() -> None:
    wanted = request(WWW, csr=csr_for([WWW], common_name="Printer 7"), subject_cn="Printer 7")
    mine = profile(subject="CN={cn}")
    assert decision(wanted, mine).subject == subject("Printer 7")


# Names left to the CSR


def test_names_of_the_csr_within_the_profile() -> None:
    wanted = request(csr=csr_for([WWW, MAIL]), authorised=False)
    assert decision(wanted).names == (MAIL, WWW)


def test_a_host_in_the_common_name_obeys_the_rules_and_becomes_a_name() -> None:
    wanted = request(csr=csr_for(common_name="www.example.com"), authorised=False)
    assert decision(wanted).names == (WWW,)
    denied = profile(dns={"allow": ["*"], "deny": ["www.example.com"]})
    assert refusal(wanted, denied).code is ErrorCode.REFUSED_NAME


@pytest.mark.parametrize("text", ["bad_host.example.com", "*.*.example.com", "host.example.com."])
def test_a_common_name_that_looks_like_a_host_and_is_none(text: str) -> None:
    wanted = request(csr=csr_for([WWW], common_name=text), authorised=False)
    assert refusal(wanted).code is ErrorCode.REFUSED_NAME


@pytest.mark.parametrize("text", ["Alice", "alice.smith", "alice@example.com", "Jürgen M."])
def test_a_client_profile_takes_the_common_name_as_text(text: str) -> None:
    found = decision(request(csr=csr_for(common_name=text), authorised=False), CLIENT)
    assert (found.subject, found.names) == (subject(text), ())


def test_rfc_5280_4_1_2_6_neither_subject_nor_name() -> None:
    assert refusal(request(csr=csr_for(), authorised=False), CLIENT).rule == "profiles.mine.subject"


@pytest.mark.parametrize(
    ("settings", "names", "rule"),
    [
        ({"dns": {"allow": ["*.corp.example"]}}, [WWW], "profiles.mine.dns"),
        ({"dns": {"allow": ["*"], "deny": ["*.example.com"]}}, [WWW], "profiles.mine.dns"),
        ({"wildcards": False}, [dns_name("*.example.com")], "profiles.mine.wildcards"),
        ({}, [email("a@example.com")], "profiles.mine.email"),
        ({}, [ip_address("10.0.0.1")], "profiles.mine.ip"),
        ({"uri": {"allow": ["*"]}}, [uri("https://a.example/../b")], "uri"),
        ({"max_names": 1}, [WWW, MAIL], "profiles.mine.max_names"),
        ({}, [], "profiles.mine.require_name"),
    ],
)
def test_name_rules_of_the_profile(
    settings: dict[str, Any], names: list[AltName], rule: str
) -> None:
    mine = profile(**settings)
    for authorised in (True, False):
        wanted = request(*names, csr=csr_for(names), authorised=authorised)
        assert refusal(wanted, mine).rule == rule


def test_several_refused_names_are_named_one_by_one() -> None:
    error = refusal(request(WWW, MAIL), profile(dns={"allow": ["a.example"]}))
    assert error.names == (MAIL.value, WWW.value)
    assert [cause.names for cause in error.causes] == [(MAIL.value,), (WWW.value,)]


def test_a_type_nobody_issues_is_refused() -> None:
    foreign = AltName(NameType.OTHER, "registeredID:1.2.3")
    san = x509.SubjectAlternativeName([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))])
    wanted = request(foreign, csr=csr_for(extensions=[san]))
    assert refusal(wanted).code is ErrorCode.REFUSED_NAME


# What a CSR asks for


@pytest.mark.parametrize(
    ("extension", "rule"),
    [
        (x509.BasicConstraints(True, None), "csr.basicConstraints"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
         "profiles.mine.extended_key_usage"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),
         "profiles.mine.extended_key_usage"),
        (x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")]),
         "profiles.mine.extended_key_usage"),
        (x509.KeyUsage(True, False, False, False, False, True, False, False, False),
         "csr.keyUsage"),
        (x509.KeyUsage(True, False, False, False, False, False, True, False, False),
         "csr.keyUsage"),
    ],
)  # fmt: skip
def test_powers_a_csr_asks_for_in_vain(extension: x509.ExtensionType, rule: str) -> None:
    error = refusal(request(WWW, csr=csr_for([WWW], extensions=[extension])))
    assert (error.code, error.rule) == (ErrorCode.BAD_CSR, rule)


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(False, None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        key_usage(frozenset({"nonRepudiation", "digitalSignature", "keyEncipherment"})),
        x509.SubjectKeyIdentifier(b"anything"),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"), b"\x0c\x00"),
    ],
)
def test_acme_60_what_clients_ask_for_by_habit_is_ignored(
    extension: x509.ExtensionType,
) -> None:
    assert decision(request(WWW, csr=csr_for([WWW], extensions=[extension]))).names == (WWW,)


def test_a_profile_without_purposes_suits_any_but_ocsp_signing() -> None:
    mine = profile(extended_key_usage=[])
    for oid, fine in [
        (ExtendedKeyUsageOID.CODE_SIGNING, True),
        (ExtendedKeyUsageOID.OCSP_SIGNING, False),
    ]:
        wanted = request(WWW, csr=csr_for([WWW], extensions=[x509.ExtendedKeyUsage([oid])]))
        if fine:
            decision(wanted, mine)
        else:
            refusal(wanted, mine)


@pytest.mark.parametrize(
    ("mode", "asks", "given"),
    [("always", False, True), ("allowed", True, True), ("allowed", False, False),
     ("never", False, False), ("never", True, None)],
)  # fmt: skip
def test_rfc_7633_must_staple(mode: str, asks: bool, given: bool | None) -> None:
    feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
    wanted = request(WWW, csr=csr_for([WWW], extensions=[feature] if asks else []))
    mine = profile(must_staple=mode)
    if given is None:
        assert refusal(wanted, mine).rule == "profiles.mine.must_staple"
    else:
        assert decision(wanted, mine).must_staple is given


# Keys


def test_a_kind_of_key_the_profile_does_not_take() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    error = refusal(request(WWW, csr=csr_for([WWW], key=key)), profile(key_kinds=["p256"]))
    assert (error.code, error.rule) == (ErrorCode.BAD_PUBLIC_KEY, "profiles.mine.key_kinds")


def test_a_weak_key() -> None:
    key = rsa.generate_private_key(65537, 1024)
    error = refusal(request(WWW, csr=csr_for([WWW], key=key)))
    assert error.code is ErrorCode.BAD_PUBLIC_KEY


def test_the_authorities_own_keys_are_not_certified() -> None:
    data = csr_for([WWW])
    own = {csr.parse(data).spki_sha256}
    error = refusal(request(WWW, csr=data), own_keys=own)
    assert (error.code, error.rule) == (ErrorCode.BAD_PUBLIC_KEY, "authority-keys")


# The path


def test_rfc_5280_4_2_1_10_constraints_of_every_ca_above_apply() -> None:
    outside = x509.NameConstraints([x509.DNSName("corp.example")], None)
    excluded = x509.NameConstraints(None, [x509.DNSName("www.example.com")])
    fine = x509.NameConstraints([x509.DNSName("example.com")], None)
    for constraints, refused in [([outside], True), ([fine, excluded], True), ([fine], False)]:
        issuer = describe("issuing", [ca(each) for each in constraints], "http://pki.example")
        if refused:
            assert refusal(request(WWW), MINE, issuer).code is ErrorCode.REFUSED_NAME
        else:
            decision(request(WWW), MINE, issuer)


def test_purposes_of_the_path_bound_the_profile() -> None:
    limited = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = describe("issuing", [ca(limited), ca()], "http://pki.example")
    assert refusal(request(WWW), MINE, issuer).rule == "profiles.mine.extended_key_usage"
    assert refusal(request(WWW), profile(extended_key_usage=[]), issuer)
    decision(request(csr=csr_for(common_name="a"), authorised=False), CLIENT, issuer)


# Validity


def times(mine: Profile = MINE, issuer: Issuer = ISSUER, **wish: Any) -> tuple[Any, Any]:
    return validity(mine, issuer, request(WWW, csr=b"", **wish), NOW)


def test_the_default_is_backdated_and_exactly_as_long_as_the_profile_says() -> None:
    start, end = times()
    assert start == NOW.replace(microsecond=0) - dt.timedelta(minutes=5)
    assert end - start + SECOND == dt.timedelta(days=90)


def test_the_last_moment_that_can_be_asked_for() -> None:
    start, end = times(not_after=NOW.replace(microsecond=0) + dt.timedelta(days=90))
    assert end - start + SECOND <= dt.timedelta(days=90)
    assert start <= NOW


@pytest.mark.parametrize(
    "wish",
    [
        {"not_after": NOW + dt.timedelta(days=91)},
        {"not_after": NOW - dt.timedelta(days=1)},
        {"not_before": NOW - dt.timedelta(hours=1)},
        {"not_before": NOW + dt.timedelta(days=91)},
        {"not_before": NOW + dt.timedelta(days=2), "not_after": NOW + dt.timedelta(days=1)},
        {"not_before": NOW - dt.timedelta(minutes=5),
         "not_after": NOW + dt.timedelta(days=90)},
    ],
)  # fmt: skip
def test_wishes_beyond_the_profile_are_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(PKIError) as caught:
        times(**wish)
    assert caught.value.rule == "profiles.mine.validity"


def test_the_certificate_does_not_outlive_any_ca_above() -> None:
    short = ca(years=1, start=NOW - dt.timedelta(days=360))
    issuer = describe("issuing", [ca(), short], "http://pki.example")
    assert times(issuer=issuer)[1] == short.not_valid_after_utc


def test_an_expired_ca_issues_nothing() -> None:
    issuer = describe("issuing", [ca(years=0, start=NOW - SECOND * 10)], "http://pki.example")
    with pytest.raises(PKIError, match="nothing is left"):
        times(issuer=issuer)


moments = st.none() | st.datetimes(
    NOW.replace(tzinfo=None) - dt.timedelta(days=300),
    NOW.replace(tzinfo=None) + dt.timedelta(days=300),
    timezones=st.just(dt.UTC),
)


@settings(max_examples=100)
@given(moments, moments)
def test_whatever_is_wished_the_bounds_hold(
    not_before: dt.datetime | None, not_after: dt.datetime | None
) -> None:
    try:
        start, end = times(not_before=not_before, not_after=not_after)
    except PKIError as error:
        assert error.code is ErrorCode.REFUSED_BY_PROFILE
        return
    assert start < end
    assert end - start + SECOND <= dt.timedelta(days=90)
    assert NOW - dt.timedelta(minutes=5, seconds=1) <= start
    assert end <= NOW + dt.timedelta(days=90)
    assert (start.microsecond, end.microsecond) == (0, 0)


names_strategy = st.lists(
    st.sampled_from(
        [WWW, MAIL, dns_name("*.example.com"), ip_address("::1"), email("a@b.example")]
    ),
    unique=True,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(names_strategy, names_strategy)
def test_only_equal_sets_of_names_pass(authorised: list[AltName], asked: list[AltName]) -> None:
    mine = profile(ip={"allow": ["*"]}, email={"allow": ["*"]}, require_name=False,
                   subject="O=Example")  # fmt: skip
    wanted = CertificateRequest("mine", ALICE, csr_for(asked, key=_KEY), names=authorised)
    if set(authorised) == set(asked):
        assert set(decision(wanted, mine).names) == set(asked)
    else:
        assert refusal(wanted, mine).code is ErrorCode.BAD_CSR


_KEY = new_key()


@pytest.mark.parametrize(
    ("address", "text"),
    [("ada@example.com", "CN=x,1.2.840.113549.1.9.1=ada@example.com,O=Contoso"),
     ("ada@example.org", "CN=x,O=Contoso"), ("no address", "CN=x,O=Contoso")],
)  # fmt: skip
def test_a_template_may_take_the_requests_word(address: str, text: str) -> None:
    """Also for an e-mail address, if the profile certifies it."""
    asked = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Contoso"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, address),
            x509.NameAttribute(NameOID.COMMON_NAME, "x"),
        ]
    )
    key = new_key()
    data = x509.CertificateSigningRequestBuilder().subject_name(asked).sign(key, hashes.SHA256())
    mine = profile(
        subject="CN={cn},emailAddress={emailaddress},O={o}",
        email={"allow": ["@example.com"]},
        require_name=False,
    )
    wanted = request(csr=data.public_bytes(Encoding.DER), authorised=False)
    assert decision(wanted, mine).subject.rfc4514_string() == text
