"""Key files: encrypted, private, durable, never written over; and the three places of their
passphrase (invariant 8)."""

import asyncio
import base64
import os
import stat
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pkiserver.config import CoreSettings, KeySettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import FileKeyProvider, create_passphrase, file_provider
from pkiserver.keys.generate import generate_key
from pkiserver.pkix.algorithms import describe, spki_sha256

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


def provider(folder: Path) -> FileKeyProvider:
    return FileKeyProvider(folder, PASSPHRASE)


@pytest.mark.parametrize("kind", get_args(KeyKind))
async def test_every_kind_is_made_kept_and_loaded_by_another_process(
    folder: Path, kind: KeyKind
) -> None:
    made = await provider(folder).generate("ca-one", kind)
    loaded = provider(folder).load("ca-one")
    assert describe(made.public_key()) == kind
    assert spki_sha256(loaded.public_key()) == spki_sha256(made.public_key())


async def test_a_key_file_is_encrypted_and_private(folder: Path) -> None:
    await provider(folder).generate("ca-one", "p256")
    path = folder / "ca-one.key"
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        load_pem_private_key(path.read_bytes(), None)


async def test_nothing_but_the_key_is_left_in_the_folder(folder: Path) -> None:
    await provider(folder).generate("ca-one", "p256")
    assert [path.name for path in folder.iterdir()] == ["ca-one.key"]


async def test_a_key_file_is_on_disk_before_anybody_uses_the_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, then its name in the folder."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    await provider(folder).generate("issuing", "p256")
    assert [*dict.fromkeys(synced)] == [
        each.stat().st_ino for each in (folder / "issuing.key", folder)
    ]


async def test_an_identifier_that_is_taken_is_refused_and_the_key_stays(folder: Path) -> None:
    first = await provider(folder).generate("ca-one", "p256")
    with pytest.raises(PKIError) as caught:
        await provider(folder).generate("ca-one", "p256")
    assert caught.value.code is ErrorCode.CONFLICT
    loaded = provider(folder).load("ca-one")
    assert spki_sha256(loaded.public_key()) == spki_sha256(first.public_key())


async def test_of_many_writers_of_one_identifier_one_wins(folder: Path) -> None:
    stores = [provider(folder).store("ca-one", generate_key("p256")) for _ in range(8)]
    results = await asyncio.gather(*stores, return_exceptions=True)
    refused = [r for r in results if isinstance(r, PKIError) and r.code is ErrorCode.CONFLICT]
    assert (results.count(None), len(refused)) == (1, 7)
    assert [path.name for path in folder.iterdir()] == ["ca-one.key"]


async def test_deleting_forgets_the_key_and_twice_is_no_error(folder: Path) -> None:
    keys = provider(folder)
    await keys.generate("ca-one", "p256")
    await keys.delete("ca-one")
    await keys.delete("ca-one")
    with pytest.raises(PKIError) as caught:
        keys.load("ca-one")
    assert caught.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("key_id", ["", "../ca", "a/b", "A", "-a", "a.key", "a\n", "a" * 129])
async def test_an_identifier_never_leaves_the_folder(folder: Path, key_id: str) -> None:
    with pytest.raises(PKIError) as caught:
        provider(folder).load(key_id)
    assert caught.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(PKIError):
        await provider(folder).store(key_id, generate_key("p256"))


async def test_another_passphrase_does_not_open_a_key_and_is_not_shown(folder: Path) -> None:
    await provider(folder).generate("ca-one", "p256")
    other = FileKeyProvider(folder, b"another secret")
    with pytest.raises(PKIError) as caught:
        other.load("ca-one")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "secret" not in caught.value.detail and "secret" not in repr(other)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_file_is_a_typed_error(folder: Path, content: bytes) -> None:
    path = folder / "ca-one.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(PKIError) as caught:
        provider(folder).load("ca-one")
    assert caught.value.code is ErrorCode.UNAVAILABLE


def test_a_key_that_cannot_sign_is_refused(folder: Path) -> None:
    path = folder / "ca-one.key"
    encryption = BestAvailableEncryption(PASSPHRASE)
    key = x25519.X25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(0o600)
    with pytest.raises(PKIError, match="no kind that signs"):
        provider(folder).load("ca-one")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o666])
async def test_a_key_file_others_can_read_is_refused_with_the_remedy(
    folder: Path, mode: int
) -> None:
    await provider(folder).generate("ca-one", "p256")
    (folder / "ca-one.key").chmod(mode)
    with pytest.raises(PKIError, match=r"chmod 600 .*ca-one\.key") as caught:
        provider(folder).load("ca-one")
    assert caught.value.code is ErrorCode.CONFIGURATION


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o750, 0o755])
def test_a_folder_others_can_enter_is_refused_with_the_remedy(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(PKIError, match="chmod 700"):
        provider(folder)


def test_a_folder_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(PKIError) as caught:
        provider(tmp_path / "nothing")
    assert caught.value.code is ErrorCode.CONFIGURATION


def test_secrets_derived_differ_by_label_and_passphrase(folder: Path) -> None:
    keys = provider(folder)
    other = FileKeyProvider(folder, b"another")
    assert keys.derive("a") == provider(folder).derive("a")
    assert len({keys.derive("a"), keys.derive("b"), other.derive("a")}) == 3
    assert len(keys.derive("a")) == 32


def settings(home: Path, **keys: str) -> CoreSettings:
    return CoreSettings(home=home, keys=KeySettings(**keys))


def test_a_new_home_gets_a_random_passphrase_only_its_owner_reads(
    tmp_path: Path, folder: Path
) -> None:
    create_passphrase(settings(tmp_path))
    path = folder / "passphrase"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(path.read_bytes())) == 32
    before = path.read_bytes()
    create_passphrase(settings(tmp_path))
    assert path.read_bytes() == before
    assert file_provider(settings(tmp_path)).passphrase() == before.strip()


def test_the_passphrase_comes_from_a_variable(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(tmp_path, passphrase_env="UNLOCK")
    create_passphrase(wanted)
    assert not list(folder.iterdir())
    with pytest.raises(PKIError, match="UNLOCK is not set"):
        file_provider(wanted)
    monkeypatch.setenv("UNLOCK", "from the environment")
    assert file_provider(wanted).passphrase() == b"from the environment"


def test_the_passphrase_comes_from_a_systemd_credential(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(tmp_path, passphrase_credential="unlock")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(PKIError, match="LoadCredential"):
        file_provider(wanted)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "unlock").write_text("from systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", os.fspath(credentials))
    assert file_provider(wanted).passphrase() == b"from systemd"


def test_the_passphrase_comes_from_a_file_with_a_private_mode(tmp_path: Path, folder: Path) -> None:
    wanted = settings(tmp_path, passphrase_file="secret.txt")
    with pytest.raises(PKIError, match="cannot be read"):
        file_provider(wanted)
    path = tmp_path / "secret.txt"
    path.write_text("from a file\n")
    path.chmod(0o640)
    with pytest.raises(PKIError, match=r"chmod 600 .*secret\.txt"):
        file_provider(wanted)
    path.chmod(0o400)
    assert file_provider(wanted).passphrase() == b"from a file"
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(PKIError, match="is empty"):
        file_provider(wanted)
