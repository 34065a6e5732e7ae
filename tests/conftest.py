"""What no test should depend on: how fast the machine is."""

from collections.abc import Iterator

import pytest

from pkiserver.ca import crl_service


@pytest.fixture(autouse=True, scope="session")
def patience() -> Iterator[None]:
    """Whoever asks for a list gets the one that shows the latest change, also on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crl_service, "PATIENCE", 30.0)
        yield
