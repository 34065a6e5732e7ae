"""A server to be run as a process of its own: `python -m tests.server.supervised JSON`.

Prints the port when it is ready. The JSON object may hold `workers`, `grace`, `cert`, `key`,
`descriptors`, the soft and the hard limit of open files, `fail`, how workers fail to start:
"configuration", "crash" or "exit", `late`, that they do not stop, and `margin`, when they are
killed.
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from pkiserver import logs
from pkiserver.errors import PKIError, configuration_error
from pkiserver.server import Listener, TLSFiles, bind, run
from pkiserver.serving import supervisor


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """/pid tells the process, /die ends it, /slow answers after half a second, /file needs one."""
    if scope["path"] == "/die":
        os._exit(3)
    if scope["path"] == "/file":
        Path(__file__).read_bytes()
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    if scope["path"] == "/hang":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})


def main(options: dict[str, Any]) -> int:
    logs.configure(style="console")
    supervisor.KILL_MARGIN = options.get("margin", supervisor.KILL_MARGIN)
    if "descriptors" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, tuple(options["descriptors"]))
    sock = bind("127.0.0.1", 0)
    tls = None
    if "cert" in options:
        tls = TLSFiles(Path(options["cert"]), Path(options["key"]), lambda: b"correct horse")

    @asynccontextmanager
    async def make_listeners(worker_index: int) -> AsyncIterator[Sequence[Listener]]:
        fail = options.get("fail")
        if fail == "configuration" and worker_index == 1:
            raise configuration_error("the key is wrong")
        if fail == "crash":
            raise ValueError("not for the terminal")
        if fail == "exit":
            os._exit(7)
        yield [Listener(sock, app, tls)]
        if options.get("late"):
            await asyncio.Event().wait()
        print(f"left {worker_index}", flush=True)

    def on_ready() -> None:
        print(sock.getsockname()[1], flush=True)

    try:
        return run(
            make_listeners,
            workers=options.get("workers", 2),
            grace=options.get("grace", 5.0),
            on_ready=on_ready,
        )
    except PKIError as error:
        print(error.code, error.detail, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
