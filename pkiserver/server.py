"""The HTTP server: bind, listeners, workers. It serves ASGI applications and knows no protocol.

https = bind("0.0.0.0", 8443)

@asynccontextmanager
async def make_listeners(worker_index):
    async with build_app(...) as app:
        yield [Listener(https, Edge(app), tls=TLSFiles(...), http2=True)]

exit_status = run(make_listeners, workers=2)
"""

from pkiserver.serving.connection import Timeouts
from pkiserver.serving.listeners import Listener, TLSFiles, bind
from pkiserver.serving.supervisor import MakeListeners, run
from pkiserver.serving.worker import Server

__all__ = ["Listener", "MakeListeners", "Server", "TLSFiles", "Timeouts", "bind", "run"]
