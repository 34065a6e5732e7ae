"""A PKI for relying parties: a root and an issuing CA of every kind of key, served by `pkiserver
serve`, with certificates of every status below each. What changes a status runs in this process
and not in the server's, as the command line would: the server has to see it at once."""

import asyncio
import contextlib
import datetime as dt
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from interop.ports import free_ports
from interop.processes import listening, service
from interop.target import START_SECONDS
from pkiserver.app import Runtime, load_settings, open_runtime
from pkiserver.ca.authorities import Rotation, Wish
from pkiserver.ca.model import CertificateRequest, Reason, Requester
from pkiserver.cli import issuing
from pkiserver.cli.files import key_pem
from pkiserver.config_types import KeyKind
from pkiserver.initialise import NewHome, initialise
from pkiserver.keys.generate import generate_key

T = TypeVar("T")

KINDS: tuple[KeyKind, ...] = ("rsa-2048", "p256", "p384", "ed25519", "ml-dsa-65")
CLASSIC = KINDS[:-1]
"""What the commands of OpenSSL 3.0 and GnuTLS 3.7 read."""
REASONS = (
    Reason.UNSPECIFIED, Reason.KEY_COMPROMISE, Reason.AFFILIATION_CHANGED, Reason.SUPERSEDED,
    Reason.CESSATION_OF_OPERATION, Reason.PRIVILEGE_WITHDRAWN,
)  # fmt: skip
"""For good, of end entities; the revoked CAs have cACompromise."""
_WHO = Requester("interop", "operator")
_PROFILE = """
[profiles.{kind}]
issuer = "{kind}"
validity = "30d"
key_usage = ["digitalSignature"]
extended_key_usage = ["serverAuth"]
dns = {{ allow = ["*"] }}
"""


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key in PEM, and what relying parties should find."""

    path: Path
    key: Path
    serial: int
    revoked: bool


@dataclass(frozen=True)
class Tree:
    """A hierarchy of one kind of key; certificates as PEM files, `leaves` by what happened to
    them. `gone` is a CA below the root that was revoked."""

    kind: KeyKind
    root: Path
    issuing: Path
    gone: Path
    leaves: dict[str, Leaf] = field(default_factory=dict)

    def good(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves.values() if not leaf.revoked]

    def revoked(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves.values() if leaf.revoked]


@dataclass(frozen=True)
class StatusPKI:
    """The running PKI. `http` is the base of every OCSP and CRL URL."""

    home: Path
    folder: Path
    http: str
    trees: Mapping[str, Tree]

    def tree(self, kind: str) -> Tree:
        return self.trees[kind]

    def issue(self, kind: KeyKind, *names: str) -> list[Leaf]:
        """More certificates below the CA of that kind."""

        async def work(runtime: Runtime) -> list[Leaf]:
            return [await _issue(runtime, self.folder, kind, name) for name in names]

        return self._act(work)

    def change(self, kind: str, changes: Sequence[tuple[Leaf, Reason | None]]) -> None:
        """Revoke for a reason, or release without one."""

        async def work(runtime: Runtime) -> None:
            for leaf, reason in changes:
                await _change(runtime, kind, leaf, reason)

        self._act(work)

    def rotate(self, kind: str, new: str) -> Path:
        """The next generation of the CA of that kind issues from now on; its certificate."""

        async def work(runtime: Runtime) -> Path:
            authorities = runtime.services.authorities
            authority = await authorities.rotate(kind, Rotation(), actor=str(_WHO))
            return _write(self.folder, new, authorities.certificate(authority.name))

        return self._act(work)

    def _act(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        return _run(self.home, work)


def _run(home: Path, work: Callable[[Runtime], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_runtime(load_settings(home)) as runtime:
            result = await work(runtime)
            await runtime.services.status.settle()
            return result

    return asyncio.run(run())


@contextlib.contextmanager
def status_pki(
    folder: Path, kinds: Sequence[KeyKind] = KINDS, crl: str = ""
) -> Iterator[StatusPKI]:
    """Made in `folder` and served until the end; `crl` are more lines of that section."""
    https, http = free_ports(2)
    home = folder / "pki"
    # pkilint takes a host without a dot for a mistake in a URI
    choices = NewHome("127.0.0.1", f"127.0.0.1:{https}", f"127.0.0.1:{http}", root_key="p256")
    initialise(home, choices)
    with (home / "pkiserver.toml").open("a") as file:
        file.write(f'\n[crl]\ndelta = "1d"\n{crl}')
        file.writelines(_PROFILE.format(kind=kind) for kind in kinds)
    trees: dict[str, Tree] = {kind: _run(home, _grower(folder, kind)) for kind in kinds}
    command = Path(sys.executable).with_name("pkiserver")
    with service([command, "serve", "--home", home], cwd=folder) as running:
        running.wait_until(lambda: listening(http), START_SECONDS, "listener")
        pki = StatusPKI(home, folder, f"http://127.0.0.1:{http}", trees)
        _run(home, _decide_all(trees))
        yield pki


def _grower(folder: Path, kind: KeyKind) -> Callable[[Runtime], Awaitable[Tree]]:
    async def grow(runtime: Runtime) -> Tree:
        authorities = runtime.services.authorities
        years = dt.timedelta(days=3650)
        root = Wish(_named(f"{kind} root"), years)
        await authorities.create_root(f"root-{kind}", root, kind, actor=str(_WHO))
        for name in (kind, f"gone-{kind}"):
            below = Wish(_named(f"{name} issuing CA"), years / 2, 0)
            await authorities.create(name, f"root-{kind}", below, kind, actor=str(_WHO))
        root_path, issuing_path, gone_path = (
            _write(folder, name, authorities.certificate(name))
            for name in (f"root-{kind}", kind, f"gone-{kind}")
        )
        tree = Tree(kind, root_path, issuing_path, gone_path)
        happened: list[str] = ["good", "released", "hold", *REASONS] if kind == "p256" else [
            "good", "released", "hold", Reason.SUPERSEDED,
        ]  # fmt: skip
        for what in happened:
            tree.leaves[what] = await _issue(runtime, folder, kind, what)
        return tree

    return grow


def _decide_all(trees: Mapping[str, Tree]) -> Callable[[Runtime], Awaitable[None]]:
    async def decide(runtime: Runtime) -> None:
        revocation = runtime.services.revocation
        for kind, tree in trees.items():
            gone = runtime.services.authorities.certificate(f"gone-{kind}").serial_number
            await revocation.revoke(f"root-{kind}", gone, Reason.CA_COMPROMISE, actor=_WHO)
            for what, leaf in tree.leaves.items():
                if what in ("hold", "released"):
                    await _change(runtime, kind, leaf, Reason.CERTIFICATE_HOLD)
                if what != "hold" and leaf.revoked:
                    await _change(runtime, kind, leaf, Reason(what))
                if what == "released":
                    await _change(runtime, kind, leaf, None)

    return decide


async def _change(runtime: Runtime, kind: str, leaf: Leaf, reason: Reason | None) -> None:
    revocation = runtime.services.revocation
    if reason is None:
        await revocation.release(kind, leaf.serial, actor=_WHO)
    else:
        await revocation.revoke(kind, leaf.serial, reason, actor=_WHO)


async def _issue(runtime: Runtime, folder: Path, kind: KeyKind, what: str) -> Leaf:
    key = generate_key("p256")
    names = issuing.alt_names(dns=[f"{what.lower()}.{kind}.example.test"])
    csr = issuing.request_for(key, names, None)
    issuance = runtime.services.issuance
    issued = await issuance.issue(
        await issuance.prepare(CertificateRequest(kind, _WHO, csr, names))
    )
    base = folder / f"{kind}-{what}"
    path = _write(folder, base.name, issued.certificate)
    key_path = path.with_suffix(".key")
    key_path.write_bytes(key_pem(key))
    return Leaf(path, key_path, issued.record.serial, what not in ("good", "released"))


def _write(folder: Path, name: str, certificate: x509.Certificate) -> Path:
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


def _named(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Interop"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
