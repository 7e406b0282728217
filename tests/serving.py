"""A small HTTP server of a test's own, on a port that the system chooses."""

import contextlib
import http.server
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def serving(
    handler: type[http.server.BaseHTTPRequestHandler],
) -> Iterator[http.server.ThreadingHTTPServer]:
    """Answers requests by `handler` until the end of the block."""
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with contextlib.closing(listening.socket):
        yield listening
        listening.shutdown()
        thread.join()
