"""Another process: revokes the serial numbers it is told on stdin, and says so when it is done.
`python -m tests.test_ocsp.revoker HOME`"""

import asyncio
import sys
from pathlib import Path

from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.model import Reason
from pkiserver.ca.revocation import Revocation
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings
from pkiserver.keys import FileKeyProvider
from pkiserver.storage import open_database
from tests.ca.status_support import ACTOR, NOW


async def main(home: Path) -> None:
    settings = CoreSettings(home=home)
    database = open_database(settings.storage.url, home)
    clock = FixedClock(NOW)
    keys = FileKeyProvider(home / "keys", b"a passphrase for tests")
    authorities = Authorities(database, clock, keys, Audit(clock), settings)
    await authorities.load()
    revocation = Revocation(database, clock, authorities, Audit(clock))
    for line in sys.stdin:
        await revocation.revoke("issuing", int(line), Reason.SUPERSEDED, actor=ACTOR)
        print("done", flush=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
