"""802.1X: FreeRADIUS and wpa_supplicant's `eapol_test`, as the recipe says, with certificates that
were enrolled by EST."""

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop import openssl, relying_party
from interop.est_pki import RECIPES, EstPKI, Held, fenced
from interop.ports import free_ports
from interop.processes import InteropError, Service, run, service
from interop.results import NewRow
from interop.tools import TOP, debian, debian_version, need

CONFIGURATION = TOP / "config" / "freeradius" / "radiusd.conf"
RECIPE = "8021x-freeradius.md"
LAPTOP = "laptop-1"
_THEIR_RESPONDER = "override_cert_url = no"
START_SECONDS = 100
LOGIN_SECONDS = 100


@dataclass(frozen=True)
class Network:
    """The recipe, done in a folder: a RADIUS server's files, and a laptop's."""

    pki: EstPKI
    folder: Path
    radius: Path
    eapol_test: Path

    def trust(self) -> None:
        """The recipe's block that makes trust.pem."""
        (block,) = (each for each in fenced(RECIPES / RECIPE, "sh") if "trust.pem" in each)
        self.pki.script(block, self.folder)

    def enrol(self, name: str) -> Path:
        """The recipe's blocks for a laptop, for another one; its certificate."""
        blocks = [each for each in fenced(RECIPES / RECIPE, "sh") if LAPTOP in each]
        self.pki.script("\n".join(blocks).replace(LAPTOP, name), self.folder)
        return self.folder / f"{name}.crt"

    @contextlib.contextmanager
    def served(
        self, ocsp: bool, responder: str = "", certificate: str = "radius"
    ) -> Iterator["Door"]:
        """FreeRADIUS with the files as they are now; `responder` instead of the one that client
        certificates name, and that certificate of its own."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            settings = Path(folder)
            self._write_settings(settings, responder, certificate)
            port, secret = free_ports(1)[0], secrets.token_urlsafe()
            env = {
                "RADIUS_SECRET": secret,
                "RADIUS_ADDRESS": "127.0.0.1",
                "RADIUS_PORT": str(port),
                "RADIUS_STATE": str(settings),
                "RADIUS_OCSP": "yes" if ocsp else "no",
            }
            words = [self.radius, "-f", "-l", "stdout", "-d", settings, "-n", "radiusd"]
            with service(words, cwd=self.folder, env=env) as running:
                running.wait_until(
                    lambda: "Ready to process requests" in running.output(), START_SECONDS, "RADIUS"
                )
                yield Door(self, port, secret, running)

    def _write_settings(self, settings: Path, responder: str, certificate: str) -> None:
        for suffix in ("crt", "key"):
            shutil.copy(self.folder / f"{certificate}.{suffix}", settings / f"radius.{suffix}")
        shutil.copy(self.folder / "trust.pem", settings)
        text = CONFIGURATION.read_text()
        if responder:
            text = text.replace(_THEIR_RESPONDER, f'override_cert_url = yes\nurl = "{responder}"')
        (settings / CONFIGURATION.name).write_text(text)


@dataclass(frozen=True)
class Door:
    """A running RADIUS server."""

    network: Network
    port: int
    secret: str
    process: Service

    def opens(self, laptop: str = LAPTOP) -> bool:
        """Whether EAP-TLS with `laptop`.conf succeeds."""
        words = [self.network.eapol_test, "-c", f"{laptop}.conf", "-t", LOGIN_SECONDS]
        words += ["-a", "127.0.0.1", "-p", self.port, "-s", self.secret]
        said = run(words, cwd=self.network.folder, status=None)
        last = said.strip().splitlines()[-1]
        if last not in ("SUCCESS", "FAILURE"):
            raise InteropError(said[-4000:])
        return last == "SUCCESS"

    def refuses(self, laptop: str = LAPTOP) -> str:
        """What its log says of why `laptop` may not come in."""
        before = len(self.process.output())
        if self.opens(laptop):
            raise InteropError(f"{laptop} came in")
        return self.process.output()[before:]


@pytest.fixture(scope="module")
def network(est: EstPKI, tmp_path_factory: pytest.TempPathFactory) -> Network:
    radius = need(debian("freeradius"))
    eapol_test = need(debian("eapol_test", "eapoltest"))
    folder = tmp_path_factory.mktemp("network")
    est.recipe(RECIPE, folder)
    return Network(est, folder, radius, eapol_test)


def test_network_access(network: Network, row: NewRow) -> None:
    """In with a certificate from EST, out when it is revoked: by OCSP at once, by the CRL after the
    next restart."""
    version = f"{debian_version('freeradius')}, {debian_version('eapoltest')}"
    what = "EAP-TLS with an EST certificate; by OCSP, by CRL"
    seen = row("FreeRADIUS, eapol_test", version, what)
    name, folder = "laptop-2", network.folder
    certificate = network.enrol(name)
    with network.served(ocsp=True) as by_ocsp, network.served(ocsp=False) as by_crl:
        assert by_ocsp.opens(name) and by_crl.opens(name)
        seen.passed("obtain")
        network.pki.revoke(openssl.serial(certificate))
        assert "ocsp: Cert status: revoked" in by_ocsp.refuses(name)
        assert by_crl.opens(name)
    network.pki.script('curl -fsS "$HTTP/ca/issuing.pem" -o issuing.pem', folder)
    chain = openssl.joined(folder / f"{name}.chain", certificate, folder / "issuing.pem")
    relying_party.wait_until_on_crl(chain, network.pki.root)
    network.trust()
    with network.served(ocsp=False) as by_crl:
        assert "certificate revoked" in by_crl.refuses(name)
        assert by_crl.opens()
        seen.passed("revoke")


def test_strangers_stay_out(network: Network) -> None:
    """The factory's certificate, a server's of our own, and the laptop's under another name."""
    folder = network.folder
    conf = (folder / "laptop-1.conf").read_text()
    _lend(network, "factory", network.pki.factory.device(folder, "SN-13"), conf)
    _lend(network, "server", network.pki.issue(folder, "tls-server", "web.example.com"), conf)
    (folder / "named.conf").write_text(conf.replace(f'identity="{LAPTOP}', 'identity="laptop-2'))
    with network.served(ocsp=False) as door:
        assert door.opens()
        assert "unable to get local issuer certificate" in door.refuses("factory")
        assert "unsuitable certificate purpose" in door.refuses("server")
        assert "does not match specified value" in door.refuses("named")


def test_no_answer_is_no_good_one(network: Network) -> None:
    """`softfail = no`: when the responder is away, nobody comes in."""
    with network.served(ocsp=True, responder=f"http://127.0.0.1:{free_ports(1)[0]}/") as door:
        assert "ocsp" in door.refuses()


def test_the_laptop_knows_its_network(network: Network) -> None:
    """`domain_match`: any other server of the same PKI is not the network."""
    other = network.pki.issue(network.folder, "tls-server", "other.example.com")
    with network.served(ocsp=False, certificate=other.certificate.stem) as door:
        assert "Alert read:fatal" in door.refuses()


def _lend(network: Network, name: str, held: Held, conf: str) -> None:
    """NAME.conf with that key and certificate, under the name that is in the certificate."""
    own = openssl.openssl(network.folder, "x509", "-in", held.certificate, "-noout", "-subject")
    text = conf.replace("laptop-1.crt", held.certificate.name)
    text = text.replace("laptop-1.key", held.key.name)
    common_name = own.rpartition("CN = ")[2].strip() or "nobody"
    text = text.replace("laptop-1.example.com", common_name)
    (network.folder / f"{name}.conf").write_text(text)
