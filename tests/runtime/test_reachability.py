"""Whether sites can be reached, within the time limit."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pysemi.runtime import reachability
from pysemi.runtime.reachability import Site, why_unreachable


@pytest.fixture
def server():
    """Return a server on this machine, whose answer is set by ``code`` and ``body``."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            time.sleep(server.delay)
            self.send_response(server.code)
            self.end_headers()
            self.wfile.write(server.body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.code, server.body, server.delay, server.seen = 200, b"/registry/x", 0, seen
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_site_that_answers_is_reachable(server):
    assert why_unreachable([Site(f"{server.url}/registries", "/registry/")]) is None
    assert server.seen == ["/registries"]


def test_no_site_at_all_is_reachable():
    assert why_unreachable([]) is None


def test_one_closed_site_among_open_ones_is_named(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    why = why_unreachable([Site(server.url), Site(f"http://{closed}/x"), Site(server.url)])
    assert why == f"{closed} cannot be reached (Connection refused)"


def test_a_refusal_is_given_with_its_status(server):
    server.code = 403
    assert "(HTTP status 403)" in why_unreachable([Site(server.url)])


def test_a_login_page_is_not_the_site(server):
    server.body = b"<html>Please log in</html>"
    assert "something else answers" in why_unreachable([Site(server.url, "/registry/")])


def test_a_silent_site_is_given_up_at_the_limit(server):
    server.delay = 5
    began = time.monotonic()
    assert "cannot be reached" in why_unreachable([Site(server.url)], limit=0.5)
    assert time.monotonic() - began < 3


def test_a_name_that_is_looked_up_for_ever_is_given_up_at_the_limit(monkeypatch):
    monkeypatch.setattr(reachability, "_why", lambda site, limit: time.sleep(20))
    began = time.monotonic()
    why = why_unreachable([Site("https://pkg.julialang.org/registries")], limit=0.3)
    assert why == "pkg.julialang.org cannot be reached (no answer within 0.3 s)"
    assert time.monotonic() - began < 3


def test_an_unknown_name_is_a_reason():
    why = why_unreachable([Site("http://no-such-host.invalid/x")])
    assert why.startswith("no-such-host.invalid cannot be reached (")


@pytest.mark.parametrize("url", ["https://[::1", "nothing", "http://host:port/"])
def test_an_address_that_is_none_is_a_reason(url):
    assert "cannot be reached" in why_unreachable([Site(url)])


def test_a_proxy_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    assert why_unreachable([Site("http://pkg.example.invalid/registries", "/registry/")]) is None
    assert server.seen == ["http://pkg.example.invalid/registries"]


def test_a_password_in_an_address_is_not_repeated():
    assert Site("http://user:secret@host.invalid:80/x").host == "host.invalid:80"
