"""npm `acme-client` through a small driver; its account key is ECDSA."""

from pathlib import Path

from interop import openssl, tools
from interop.processes import run
from interop.results import NewRow
from interop.target import Target


def test_acme_client(target: Target, workdir: Path, webroot: Path, row: NewRow) -> None:
    driver = tools.need(tools.npm_client, optional=True)
    seen = row("npm acme-client", tools.pinned(tools.NPM_CLIENT), "http-01; account key rollover")
    name = "npm.example.test"
    chain, key = workdir / "chain.pem", workdir / "leaf.key"

    def step(word: str) -> None:
        env = {
            "NODE_EXTRA_CA_CERTS": str(target.ca_bundle),
            "ACME_DIRECTORY": target.directory_url,
            "ACME_WEBROOT": str(webroot / ".well-known" / "acme-challenge"),
            "ACME_NAME": name,
            "ACME_STEP": word,
        }
        run(["node", driver], cwd=workdir, env=env)

    step("obtain")
    first = openssl.verify(chain, target.roots, key, hostname=f"www.{name}")
    seen.passed("obtain")
    step("rollover")
    step("renew")
    second = openssl.verify(chain, target.roots, key, hostname=name)
    assert first != second
    seen.passed("renew")
    step("revoke")
    assert target.operator.status(second, chain) == "revoked"
    seen.passed("revoke")
