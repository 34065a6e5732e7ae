"""The configuration: every mistake is refused with its place, the environment overrides the file,
no secret is printed."""

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.app import load_settings
from pkiserver.config import CoreSettings
from pkiserver.config_types import parse_duration
from pkiserver.errors import ErrorCode, PKIError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("PKISERVER_"):
            monkeypatch.delenv(name)


def load(home: Path, text: str = "") -> CoreSettings:
    (home / "pkiserver.toml").write_text(text, encoding="utf-8")
    return load_settings(home)


def mistakes(home: Path, text: str = "") -> list[str]:
    with pytest.raises(PKIError) as caught:
        load(home, text)
    assert caught.value.code is ErrorCode.CONFIGURATION
    return caught.value.detail.splitlines()


def mistake(home: Path, text: str = "") -> str:
    (line,) = mistakes(home, text)
    return line


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("12h", 43200),
        ("90d", 7776000),
        ("2w", 1209600),
        ("1y", 31536000),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == dt.timedelta(seconds=seconds)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()))
def test_a_duration_is_one_or_a_value_error(value: object) -> None:
    try:
        parsed = parse_duration(value)
    except ValueError:
        return
    assert isinstance(parsed, dt.timedelta)


@pytest.mark.parametrize("value", ["90", '"90"', '"-1d"', '"1.5h"', '"P1D"', "true", '""'])
def test_a_duration_without_its_unit_is_refused(tmp_path: Path, value: str) -> None:
    line = mistake(tmp_path, f"[profiles.x]\nvalidity = {value}\n")
    assert line.startswith(f"{tmp_path}/pkiserver.toml: profiles.x.validity: write a duration as")


@pytest.mark.parametrize("value", ["999999999y", "101y"])
def test_a_duration_is_bounded(tmp_path: Path, value: str) -> None:
    assert "at most 100 years" in mistake(tmp_path, f'[crl]\nvalidity = "{value}"\n')


def test_a_duration_of_nothing_is_refused_where_it_makes_no_sense(tmp_path: Path) -> None:
    assert "longer than nothing" in mistake(tmp_path, '[ocsp]\nvalidity = "0s"\n')
    assert load(tmp_path, '[server]\nshutdown_timeout = "0s"\n').server.shutdown_timeout == (
        dt.timedelta(0)
    )


# The file


def test_every_mistake_is_said_with_file_and_key(tmp_path: Path) -> None:
    text = "[server]\nworkers = 0\nfoo = 1\n[profiles.x]\nzz = 1\n[nope]\na = 1\n"
    found = mistakes(tmp_path, text)
    keys = sorted(line.removeprefix(f"{tmp_path}/pkiserver.toml: ").split(":")[0] for line in found)
    assert keys == ["nope", "profiles.x.zz", "server.foo", "server.workers"]


@pytest.mark.parametrize("text", ["[server\n", "a = 1\na = 2\n", "server = 3\n", "\x00"])
def test_what_is_no_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    assert mistake(tmp_path, text).startswith(f"{tmp_path}/pkiserver.toml: ")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "pkiserver.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PKIError, match=r"pkiserver\.toml"):
        load_settings(tmp_path)


def test_the_home_is_not_set_in_the_file(tmp_path: Path) -> None:
    assert "set by --home" in mistake(tmp_path, 'home = "/elsewhere"\n')


@pytest.mark.parametrize("name", ["ca", "ocsp-responder"])
def test_the_names_of_the_servers_own_certificates_are_no_profiles(
    tmp_path: Path, name: str
) -> None:
    """Recovery and inventory tell authorities and responders by them."""
    assert f"profiles.{name}: this name is taken" in mistake(tmp_path, f"[profiles.{name}]\n")


def test_every_bad_name_is_said(tmp_path: Path) -> None:
    text = "[profiles.'A B']\n[profiles.ca]\n[acme.'../x']\n"
    assert len(mistakes(tmp_path, text)) == 3


@pytest.mark.parametrize(
    "line",
    [
        'hostname = "*.example.com"',
        'hostname = "a b"',
        'hostname = ""',
        'https = "localhost"',
        'http = "127.0.0.1:70000"',
        'external_url = "pki.example.com"',
        'external_url = "ftp://pki.example.com"',
        'external_url = "https://pki.example.com/?x=1"',
        'external_url = "https://user:pw@pki.example.com"',
        'external_url = "https://pki.example.com:0x"',
        'external_url = "https://bücher.example"',
        'external_http_url = "https://pki.example.com"',
        'trusted_proxies = ["10.0.0.1/8"]',
        'trusted_proxies = ["proxy"]',
        "workers = 65",
        'request_timeout = "0s"',
    ],
)
def test_a_value_that_cannot_work_is_refused(tmp_path: Path, line: str) -> None:
    key = line.split(" ")[0]
    assert f"pkiserver.toml: server.{key}" in mistake(tmp_path, f"[server]\n{line}\n")


@pytest.mark.parametrize(
    ("lines", "https", "http"),
    [
        ("", "https://localhost:8443", "http://localhost:8080"),
        ('hostname = "::1"', "https://[::1]:8443", "http://[::1]:8080"),
        ('https = "0.0.0.0:443"\nhttp = "[::]:80"', "https://localhost", "http://localhost"),
        (
            'external_url = "https://pki.example.com/pki/"\nexternal_http_url = "http://crl.example"',
            "https://pki.example.com/pki",
            "http://crl.example",
        ),
    ],
)
def test_the_urls_clients_see(tmp_path: Path, lines: str, https: str, http: str) -> None:
    server = load(tmp_path, f"[server]\n{lines}\n").server
    assert (server.https_base, server.http_base) == (https, http)


def test_a_profile_of_a_shipped_name_starts_from_ours(tmp_path: Path) -> None:
    profile = load(tmp_path, '[profiles.tls-server]\nvalidity = "5d"\n').profiles["tls-server"]
    assert profile.validity == dt.timedelta(days=5)
    assert profile.extended_key_usage == ("serverAuth",)


def test_the_passphrase_comes_from_one_place(tmp_path: Path) -> None:
    text = '[keys]\npassphrase_file = "a"\npassphrase_env = "B"\n'
    assert "keys: the passphrase comes from one place" in mistake(tmp_path, text)


# The environment


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(
        monkeypatch,
        {
            "PKISERVER_SERVER__WORKERS": "3",
            "PKISERVER_SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]',
            "PKISERVER_ACME__DEFAULT__HTTP01_PORT": "5002",
            "PKISERVER_PROFILES__TLS-SERVER__VALIDITY": "5d",
            "PKISERVER_CRL": '{"validity": "2d"}',
        },
    )
    text = (
        "[server]\nworkers = 2\nhttp2 = false\n[acme.default]\ntls_alpn01_port = 5001\n"
        "[profiles.tls-server]\nmax_names = 3\n[profiles.x]\n[crl]\nrefresh = '1h'\n"
    )
    settings = load(tmp_path, text)
    assert (settings.server.workers, settings.server.http2) == (3, False)
    assert settings.server.trusted_proxies == ("10.0.0.0/8",)
    directory = settings.section("acme")["default"].model_dump()
    assert (directory["http01_port"], directory["tls_alpn01_port"]) == (5002, 5001)
    profile = settings.profiles["tls-server"]
    assert (profile.validity, profile.max_names) == (dt.timedelta(days=5), 3)
    assert "x" in settings.profiles
    assert (settings.crl.validity, settings.crl.refresh) == (
        dt.timedelta(days=2),
        dt.timedelta(hours=1),
    )


def test_the_home_that_was_asked_for_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--home A` with PKISERVER_HOME=B would serve A's configuration with B's keys."""
    monkeypatch.setenv("PKISERVER_HOME", "/elsewhere")
    assert load(tmp_path).home == tmp_path


@pytest.mark.parametrize("name", ["PKISERVER_TYPO", "PKISERVER_SERVR__WORKERS", "pkiserver_typo"])
def test_an_unknown_variable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert mistake(tmp_path) == f"environment variable {name}: no such key"


@pytest.mark.parametrize(
    ("name", "value"), [("PKISERVER_SERVER__WORKRS", "2"), ("PKISERVER_SERVER__WORKERS", "many")]
)
def test_a_mistake_in_a_variable_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert mistake(tmp_path, "[server]\nworkers = 2\n").startswith(f"environment variable {name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PKISERVER_SERVER", "x"), ("PKISERVER_SERVER__TRUSTED_PROXIES", "10.0.0.0/8")],
)
def test_a_list_that_is_no_json_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    line = mistake(tmp_path)
    assert name in line and "JSON" in line


# Secrets


def test_values_are_not_repeated_in_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret put into the wrong key must not get to a terminal or a log."""
    monkeypatch.setenv("PKISERVER_SERVER__WORKERS", "hunter2")
    text = '[keys]\npassphrase = "hunter2"\n[server]\nexternal_url = "https://u:hunter2@h"\n'
    assert not any("hunter2" in line for line in mistakes(tmp_path, text))
