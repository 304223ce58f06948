"""An HTTP server on this machine, as good or as bad as a test needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, at any path.

    ``ranges``, ``conditions``: whether Range and If-Range are known here.
    ``breaks``: so many bytes each of the first answers has before the connection is lost.
    ``statuses``: with which errors the first requests are answered.
    """

    content: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    conditions: bool = True
    length: bool = True
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    pause: float = 0.0
    url: str = ""
    asked: list[str | None] = field(default_factory=list)


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve ``site`` and set its ``url``; ``asked`` lists each request's Range."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start = 0
            condition = self.headers.get("If-Range") if site.conditions else None
            if wanted and site.ranges and condition in (None, site.etag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(site.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                last = len(site.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(site.content)}")
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
            if site.length:
                self.send_header("Content-Length", str(len(site.content) - start))
            self.end_headers()
            body = site.content[start:]
            if site.breaks:
                body = body[: site.breaks.pop(0)]
            step = 1 << 16
            for i in range(0, len(body), step):
                self.wfile.write(body[i : i + step])
                time.sleep(site.pause)

        def log_message(self, *args):
            pass

        def handle(self):
            with suppress(BrokenPipeError, ConnectionResetError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
