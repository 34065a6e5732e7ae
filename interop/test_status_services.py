"""OCSP and CRLs as relying parties see them: OpenSSL, GnuTLS, NSS, pkilint and cryptography have to
agree, over CAs of every kind of key and certificates of every status."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as x509_ocsp

from interop import relying_party
from interop import status_tools as parties
from interop.openssl import joined, openssl
from interop.processes import InteropError, run
from interop.results import NewRow
from interop.status_pki import CLASSIC, KINDS, REASONS, StatusPKI, Tree, status_pki
from interop.status_tools import GOOD, NSS, REVOKED, expected
from interop.tools import debian, debian_version, need
from pkiserver.ca.model import Reason
from pkiserver.config_types import KeyKind

IN_NSS = ("rsa-2048", "p256", "p384")
"""NSS 3.87 knows no Ed25519 certificates."""
IN_SHARDS: tuple[KeyKind, ...] = ("rsa-2048", "p256")
SHOWN = {"rsa-2048": "RSA", "p256": "P-256", "p384": "P-384", "ed25519": "Ed25519",
         "ml-dsa-65": "ML-DSA-65"}  # fmt: skip


@pytest.fixture(scope="session")
def pki(request: pytest.FixtureRequest) -> Iterator[StatusPKI]:
    """One complete list and one delta for each CA."""
    with _served(request) as running:
        yield running


@pytest.fixture(scope="session")
def sharded(request: pytest.FixtureRequest) -> Iterator[StatusPKI]:
    """Lists for CAs and for end entities apart, those of end entities in four shards."""
    with _served(request, IN_SHARDS, 'scopes = "split"\nshards = 4\n') as running:
        yield running


@contextlib.contextmanager
def _served(
    request: pytest.FixtureRequest, kinds: Sequence[KeyKind] = KINDS, crl: str = ""
) -> Iterator[StatusPKI]:
    if request.config.getoption("--target") != "pkiserver":
        pytest.skip("the revocation services are ours alone")
    folder = Path(tempfile.mkdtemp(prefix="interop-status-"))
    try:
        with status_pki(folder, kinds, crl) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trees(pki: StatusPKI) -> list[Tree]:
    """Those whose keys every command but NSS's reads."""
    return [pki.tree(kind) for kind in CLASSIC]


def over(*kinds: str) -> str:
    return ", ".join(SHOWN[kind] for kind in kinds)


def openssl_version(pki: StatusPKI) -> str:
    return openssl(pki.folder, "version").split()[1]


def by_status(trees: Iterable[Tree], ask: Callable[[Tree, Path], str]) -> None:
    """Ask about every certificate of every tree."""
    for tree in trees:
        seen = {what: ask(tree, leaf.path) for what, leaf in tree.leaves.items()}
        assert seen == {what: expected(leaf) for what, leaf in tree.leaves.items()}, tree.kind


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("with and without nonce", [[], ["-no_nonce"]]),
        ("SHA-256, SHA-384 and SHA-512 CertID", [["-sha256"], ["-sha384"], ["-sha512"]]),
    ],
)
def test_openssl_ocsp(
    pki: StatusPKI, trees: list[Tree], row: NewRow, what: str, options: list[list[str]]
) -> None:
    """RFC 6960 by POST: good, released, on hold, revoked for each reason."""
    seen = row("openssl ocsp", openssl_version(pki), f"POST, {what}; {over(*CLASSIC)}")

    def ask(tree: Tree, leaf: Path) -> str:
        url = f"{pki.http}/ocsp/{tree.kind}"
        answers = {
            parties.ocsp(tree.issuing, [leaf], tree.root, url, *option)[0] for option in options
        }
        return ", ".join(answers)

    by_status(trees, ask)
    seen.passed("obtain")
    seen.passed("revoke")


def test_openssl_ocsp_two_certificates(pki: StatusPKI, trees: list[Tree], row: NewRow) -> None:
    """RFC 6960 section 4.1.1: a list of requests, each answered."""
    seen = row(
        "openssl ocsp", openssl_version(pki), f"two certificates, signed request; {over(*CLASSIC)}"
    )
    for tree in trees:
        url = f"{pki.http}/ocsp/{tree.kind}"
        good, hold = tree.leaves["good"], tree.leaves["hold"]
        both = parties.ocsp(tree.issuing, [good.path, hold.path], tree.root, url)
        assert both == [GOOD, REVOKED]
        signed = ("-signer", good.path, "-signkey", good.key)
        assert parties.ocsp(tree.issuing, [hold.path], tree.root, url, *signed) == [REVOKED]
    seen.passed("obtain")
    seen.passed("revoke")


def test_openssl_ocsp_by_get(pki: StatusPKI, trees: list[Tree], row: NewRow) -> None:
    """RFC 9919 section 6: curl fetches, openssl checks."""
    need(debian("curl"))
    seen = row("curl", debian_version("curl"), f"OCSP by GET; {over(*CLASSIC)}")
    for tree, leaf in [(each, leaf) for each in trees for leaf in each.leaves.values()]:
        request, answer = leaf.path.with_suffix(".req"), leaf.path.with_suffix(".resp")
        words = ["ocsp", "-no_nonce", "-issuer", tree.issuing, "-cert", leaf.path]
        openssl(pki.folder, *words, "-reqout", request)
        url = parties.get_url(f"{pki.http}/ocsp/{tree.kind}", request)
        head = run(
            ["curl", "--silent", "--fail", "--dump-header", "-", "-o", answer, url], cwd=pki.folder
        )
        assert "content-type: application/ocsp-response" in head.lower()
        assert "etag: " in head.lower() and "max-age=" in head.lower()
        more = ["-respin", answer, "-CAfile", tree.root, "-verify_other", tree.issuing]
        assert parties.statuses(openssl(pki.folder, *words, *more), [leaf.path]) == [expected(leaf)]
    seen.passed("obtain")
    seen.passed("revoke")


def test_reasons(pki: StatusPKI, row: NewRow) -> None:
    """RFC 5280 section 5.3.1: the same reason in OCSP and in the CRL, none for unspecified."""
    seen = row("openssl", openssl_version(pki), "every reason, in OCSP and CRL")
    tree = pki.tree("p256")
    crl = parties.fetch_crl(f"{pki.http}/crl/p256.crl", pki.folder / "reasons.crl")
    listed = x509.load_pem_x509_crl(crl.read_bytes())
    by_openssl = {"hold": "certificateHold", Reason.UNSPECIFIED: "",
                  Reason.PRIVILEGE_WITHDRAWN: "(UNKNOWN)"}  # fmt: skip
    words = ["-url", f"{pki.http}/ocsp/p256", "-CAfile", tree.root, "-verify_other", tree.issuing]
    for what in (*REASONS, "hold"):
        leaf = tree.leaves[what]
        asked = ["ocsp", "-issuer", tree.issuing, "-cert", leaf.path, *words]
        assert parties.reason(openssl(pki.folder, *asked)) == by_openssl.get(what, what)
        wanted = {"hold": "certificateHold", Reason.UNSPECIFIED: None}.get(what, what)
        answered = _asked(pki, tree, what).revocation_reason
        assert (answered and answered.value) == wanted
        entry = listed.get_revoked_certificate_by_serial_number(leaf.serial)
        assert entry is not None and _reason(entry) == wanted
    seen.passed("revoke")


def _reason(entry: x509.RevokedCertificate) -> str | None:
    try:
        found = entry.extensions.get_extension_for_class(x509.CRLReason)
    except x509.ExtensionNotFound:
        return None
    return str(found.value.reason.value)


def test_openssl_verify(pki: StatusPKI, trees: list[Tree], row: NewRow) -> None:
    """RFC 5280 section 6.3, strictly: the leaf, then every certificate below the root."""
    seen = row("openssl verify", openssl_version(pki),
               f"-crl_check, -crl_check_all -x509_strict; {over(*CLASSIC)}")  # fmt: skip
    crls = {tree.kind: _crls(pki, tree) for tree in trees}

    def leaf_only(tree: Tree, leaf: Path) -> str:
        crl = crls[tree.kind][:1]
        return parties.verify(leaf, tree.root, tree.issuing, crl, "-crl_check")

    def whole_chain(tree: Tree, leaf: Path) -> str:
        strict = ("-crl_check_all", "-x509_strict")
        return parties.verify(leaf, tree.root, tree.issuing, crls[tree.kind], *strict)

    by_status(trees, leaf_only)
    by_status(trees, whole_chain)
    seen.passed("obtain")
    seen.passed("revoke")


def test_authorities(pki: StatusPKI, trees: list[Tree], row: NewRow) -> None:
    """CAs below a root are answered for like any other certificate, by OCSP and CRL."""
    seen = row("openssl", openssl_version(pki), f"subordinate CAs, OCSP and CRL; {over(*CLASSIC)}")
    for tree in trees:
        url = f"{pki.http}/ocsp/root-{tree.kind}"
        _, crl = _crls(pki, tree)
        for authority, status in ((tree.issuing, GOOD), (tree.gone, REVOKED)):
            assert parties.ocsp(tree.root, [authority], tree.root, url) == [status]
            assert parties.verify(authority, tree.root, tree.root, [crl], "-crl_check") == status
    seen.passed("obtain")
    seen.passed("revoke")


def test_deltas(pki: StatusPKI, row: NewRow) -> None:
    """RFC 5280 sections 5.2.4 and 6.3: an old complete list and the newest delta say what is true
    now: revoked, put on hold, released."""
    seen = row("openssl verify", openssl_version(pki), f"-crl_check -use_deltas; {over(*CLASSIC)}")
    for kind in CLASSIC:
        tree = pki.tree(kind)
        fresh, held, freed = pki.issue(kind, "delta-revoked", "delta-held", "delta-freed")
        pki.change(kind, [(freed, Reason.CERTIFICATE_HOLD)])
        base = parties.fetch_crl(f"{pki.http}/crl/{kind}.crl", pki.folder / f"{kind}-base.crl")
        changes = (fresh, Reason.SUPERSEDED), (held, Reason.CERTIFICATE_HOLD), (freed, None)
        pki.change(kind, changes)
        delta = parties.fetch_crl(_freshest(fresh.path), pki.folder / f"{kind}-delta.crl")
        for leaf, old, new in (
            (fresh, GOOD, REVOKED),
            (held, GOOD, REVOKED),
            (freed, REVOKED, GOOD),
        ):
            known = (leaf.path, tree.root, tree.issuing)
            assert parties.verify(*known, [base], "-crl_check") == old
            deltas = ("-crl_check", "-extended_crl", "-use_deltas")
            assert parties.verify(*known, [base, delta], *deltas) == new
    seen.passed("revoke")


def test_shards(sharded: StatusPKI, row: NewRow) -> None:
    """RFC 5280 section 5.2.5: a list says by a critical extension what it is about, and OpenSSL
    takes it for a certificate only if the URL is the one in the certificate."""
    seen = row("openssl verify", openssl_version(sharded),
               f"CRLs in shards, -x509_strict, -use_deltas; {over(*IN_SHARDS)}")  # fmt: skip
    trees = [sharded.tree(kind) for kind in IN_SHARDS]

    def ask(tree: Tree, leaf: Path) -> str:
        return _verify_by_named_lists(tree, leaf, "-x509_strict")

    def with_deltas(tree: Tree, leaf: Path) -> str:
        return _verify_by_named_lists(tree, leaf, "-extended_crl", "-use_deltas")

    by_status(trees, ask)
    by_status(trees, with_deltas)
    for tree in trees:
        urls = {relying_party.crl_url(leaf.path) for leaf in tree.leaves.values()}
        assert len(urls) > 1, "the certificates are spread"
        crl = parties.fetch_crl(relying_party.crl_url(tree.gone), sharded.folder / "gone.crl")
        assert parties.verify(tree.gone, tree.root, tree.root, [crl], "-crl_check") == REVOKED
        for url in urls:
            crl = parties.fetch_crl(url, sharded.folder / "shard.crl")
            assert parties.certtool_crl(crl, tree.issuing)
            relying_party.lint("lint_crl", crl, "-t", "CRL", "-p", "PKIX")
    seen.passed("obtain")
    seen.passed("revoke")


def _verify_by_named_lists(tree: Tree, leaf: Path, *options: str) -> str:
    """Leaf and issuing CA, each with the list it names (and the delta)."""
    # One by one: -crl_check_all asks for a list of the root's own, which names none.
    authority = _verify_by_named_list(tree.root, tree.root, tree.issuing, *options)
    assert authority == GOOD
    return _verify_by_named_list(tree.root, tree.issuing, leaf, *options)


def _verify_by_named_list(root: Path, issuer: Path, certificate: Path, *options: str) -> str:
    crls = [parties.fetch_crl(relying_party.crl_url(certificate), certificate.with_suffix(".crl"))]
    if "-use_deltas" in options:
        delta = certificate.with_suffix(".delta.crl")
        crls.append(parties.fetch_crl(_freshest(certificate), delta))
    return parties.verify(certificate, root, issuer, crls, "-crl_check", *options)


def test_rollover(sharded: StatusPKI, row: NewRow) -> None:
    """After a CA has rolled over to its next key, certificates of both generations are checked."""
    seen = row("openssl", openssl_version(sharded), f"after a rollover; {over(*IN_SHARDS)}")
    for kind in IN_SHARDS:
        tree = sharded.tree(kind)
        (old,) = sharded.issue(kind, "before")
        next_one = sharded.rotate(kind, f"{kind}-next")
        (new,) = sharded.issue(kind, "after")
        for changes, status in (([], GOOD), ([old, new], REVOKED)):
            for issuer, leaf in ((kind, old), (f"{kind}-2", new)):
                if leaf in changes:
                    sharded.change(issuer, [(leaf, Reason.SUPERSEDED)])
            for leaf, issuing in ((old, tree.issuing), (new, next_one)):
                generation = dataclasses.replace(tree, issuing=issuing)
                asked = parties.ocsp(issuing, [leaf.path], tree.root, _ocsp_url(leaf.path))
                assert asked == [status]
                assert _verify_by_named_lists(generation, leaf.path, "-x509_strict") == status
    seen.passed("obtain")
    seen.passed("renew")
    seen.passed("revoke")


def test_gnutls_ocsp(pki: StatusPKI, trees: list[Tree], row: NewRow) -> None:
    need(debian("ocsptool", "gnutls-bin"))
    seen = row("ocsptool", debian_version("gnutls-bin"),
               f"--ask with and without nonce, --verify-response; {over(*CLASSIC)}")  # fmt: skip
    answer = pki.folder / "ocsptool.der"
    for nonce in ((), ("--nonce",)):
        by_status(trees, functools.partial(_ocsptool, answer, nonce))
        for tree in trees:
            assert parties.ocsptool(tree.gone, tree.root, answer, *nonce) == REVOKED
    seen.passed("obtain")
    seen.passed("revoke")


def _ocsptool(answer: Path, options: tuple[str, ...], tree: Tree, leaf: Path) -> str:
    return parties.ocsptool(leaf, tree.issuing, answer, *options)


def test_gnutls_crl(pki: StatusPKI, trees: list[Tree], row: NewRow) -> None:
    need(debian("certtool", "gnutls-bin"))
    seen = row("certtool", debian_version("gnutls-bin"),
               f"--verify-crl, --verify --load-crl; {over(*CLASSIC)}")  # fmt: skip
    for tree, other in zip(trees, [*trees[1:], trees[0]], strict=True):
        leaf_crl, ca_crl = _crls(pki, tree)
        assert parties.certtool_crl(leaf_crl, tree.issuing)
        assert not parties.certtool_crl(leaf_crl, other.issuing)
        assert parties.certtool_crl(ca_crl, tree.root)
        joined(pki.folder / f"{tree.kind}-both.crl", leaf_crl, ca_crl)

    def ask(tree: Tree, leaf: Path) -> str:
        chain = joined(pki.folder / f"{tree.kind}-chain.pem", leaf, tree.issuing)
        return parties.certtool(chain, tree.root, pki.folder / f"{tree.kind}-both.crl")

    by_status(trees, ask)
    seen.passed("obtain")
    seen.passed("revoke")


@pytest.fixture
def databases(pki: StatusPKI, workdir: Path) -> dict[str, NSS]:
    """An NSS database for each tree it reads; leaves are called as their files are."""
    need(debian("certutil", "libnss3-tools"))
    made = {kind: NSS(workdir / kind, pki.tree(kind)) for kind in IN_NSS}
    for kind, nss in made.items():
        for leaf in pki.tree(kind).leaves.values():
            nss.add(leaf.path.stem, leaf.path)
    return made


def test_nss_ocsp(pki: StatusPKI, databases: dict[str, NSS], row: NewRow) -> None:
    """RFC 9919: NSS asks by GET first."""
    seen = row("NSS ocspclnt, vfychain", debian_version("libnss3-tools"), f"OCSP; {over(*IN_NSS)}")

    def vfychain(tree: Tree, leaf: Path) -> str:
        return databases[tree.kind].vfychain(leaf, tree.issuing, "ocsp")

    trees = [pki.tree(kind) for kind in IN_NSS]
    by_status(trees, lambda tree, leaf: databases[tree.kind].ocspclnt(leaf.stem))
    by_status(trees, vfychain)
    seen.passed("obtain")
    seen.passed("revoke")


def test_nss_crl(pki: StatusPKI, databases: dict[str, NSS], row: NewRow) -> None:
    """Our lists have no extension NSS takes for a reason to refuse them."""
    seen = row(
        "NSS crlutil, certutil, vfychain", debian_version("libnss3-tools"), f"CRL; {over(*IN_NSS)}"
    )
    trees = [pki.tree(kind) for kind in IN_NSS]
    for tree in trees:
        for crl in _crls(pki, tree):
            databases[tree.kind].add_crl(crl.with_suffix(".der"))
    by_status(trees, lambda tree, leaf: databases[tree.kind].certutil(leaf.stem))
    by_status(trees, lambda tree, leaf: databases[tree.kind].vfychain(leaf, tree.issuing, "crl"))
    seen.passed("obtain")
    seen.passed("revoke")


def test_pkilint(pki: StatusPKI, row: NewRow) -> None:
    """No finding of WARNING or worse in what every kind of CA makes."""
    kinds = over(*KINDS)
    seen = row("pkilint", importlib.metadata.version("pkilint"),
               f"certificates, CRLs, ARLs, OCSP responses; {kinds}")  # fmt: skip
    for tree in map(pki.tree, KINDS):
        for certificate in (tree.leaves["good"].path, tree.issuing, tree.root):
            relying_party.lint("lint_pkix_cert", certificate)
        for issuer, certificate in (
            (tree.issuing, tree.leaves["good"].path), (tree.root, tree.issuing),
        ):  # fmt: skip
            relying_party.lint("lint_pkix_signer_signee_cert_chain", certificate, str(issuer))
        leaf_crl, ca_crl = _crls(pki, tree)
        relying_party.lint("lint_crl", leaf_crl, "-t", "CRL", "-p", "PKIX")
        relying_party.lint("lint_crl", ca_crl, "-t", "ARL", "-p", "PKIX")
        for what in ("good", "superseded"):
            answer = pki.folder / f"{tree.kind}-{what}.ocsp"
            response = _asked(pki, tree, what)
            answer.write_bytes(response.public_bytes(Encoding.DER))
            relying_party.lint("lint_ocsp_response", answer)
            (signer,) = response.certificates
            signer_path = answer.with_suffix(".signer.pem")
            signer_path.write_bytes(signer.public_bytes(Encoding.PEM))
            relying_party.lint("lint_pkix_cert", signer_path)
    seen.passed("obtain")
    seen.passed("revoke")


def test_cryptography(pki: StatusPKI, row: NewRow) -> None:
    """Signatures from leaf to root, of the CRL, of the OCSP answer and of its signer: also
    ML-DSA's, which OpenSSL 3.0, GnuTLS 3.7 and NSS 3.87 do not read."""
    seen = row("cryptography", importlib.metadata.version("cryptography"),
               f"chain, CRL, OCSP; {over(*KINDS)}")  # fmt: skip
    for tree in map(pki.tree, KINDS):
        issuing, root = _load(tree.issuing), _load(tree.root)
        issuing.verify_directly_issued_by(root)
        crl = x509.load_pem_x509_crl(_crls(pki, tree)[0].read_bytes())
        assert crl.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]
        for what, leaf in tree.leaves.items():
            certificate = _load(leaf.path)
            certificate.verify_directly_issued_by(issuing)
            listed = crl.get_revoked_certificate_by_serial_number(leaf.serial)
            answer = _asked(pki, tree, what)
            assert answer.certificate_status.name.lower() == expected(leaf)
            assert (listed is not None) is leaf.revoked
            (signer,) = answer.certificates
            signer.verify_directly_issued_by(issuing)
            _check_answer(answer, signer, pki.folder)
    seen.passed("obtain")
    seen.passed("revoke")


def _crls(pki: StatusPKI, tree: Tree) -> tuple[Path, Path]:
    """The lists of a tree's issuing CA and of its root."""
    leaf, authority = (
        parties.fetch_crl(f"{pki.http}/crl/{name}.crl", pki.folder / f"{name}.crl")
        for name in (tree.kind, f"root-{tree.kind}")
    )
    return leaf, authority


def _freshest(certificate: Path) -> str:
    """RFC 5280 section 4.2.1.15."""
    found = _load(certificate).extensions.get_extension_for_class(x509.FreshestCRL).value
    (point,) = found
    assert point.full_name is not None
    return str(point.full_name[0].value)


def _ocsp_url(certificate: Path) -> str:
    return openssl(certificate.parent, "x509", "-in", certificate, "-noout", "-ocsp_uri").strip()


def _load(certificate: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.read_bytes())


def _asked(pki: StatusPKI, tree: Tree, what: str) -> x509_ocsp.OCSPResponse:
    builder = x509_ocsp.OCSPRequestBuilder()
    leaf, issuer = _load(tree.leaves[what].path), _load(tree.issuing)
    request = pki.folder / f"{tree.kind}-{what}.asked"
    request.write_bytes(
        builder.add_certificate(leaf, issuer, hashes.SHA256()).build().public_bytes(Encoding.DER)
    )
    url = parties.get_url(f"{pki.http}/ocsp/{tree.kind}", request)
    return x509_ocsp.load_der_ocsp_response(parties.fetch(url, "application/ocsp-response"))


def _check_answer(answer: x509_ocsp.OCSPResponse, signer: x509.Certificate, folder: Path) -> None:
    """The responder's signature, by its key."""
    key, algorithm = signer.public_key(), answer.signature_hash_algorithm
    signed, signature = answer.tbs_response_bytes, answer.signature
    if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
        key.verify(signature, signed, ec.ECDSA(algorithm))
    elif isinstance(key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey):
        key.verify(signature, signed)
    else:
        raise InteropError(f"a responder's key of another kind: {key}")
