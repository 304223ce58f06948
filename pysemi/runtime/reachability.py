"""Whether sites can be reached, found out within a hard time limit.

The check goes through urllib, and so through the proxies that the environment
names, as the downloads themselves do.
"""

from __future__ import annotations

import http.client
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["REACH_SECONDS", "Site", "why_unreachable"]

REACH_SECONDS = 5.0
_PEEK_BYTES = 1 << 16


@dataclass(frozen=True)
class Site:
    """A page to ask for.

    Attributes
    ----------
    url : str
        Its address.
    expected : str
        What its first 64 KiB must contain: a login page in place of the
        network also answers.
    """

    url: str
    expected: str = ""

    @property
    def host(self) -> str:
        """The site's name, for messages."""
        try:
            return urlsplit(self.url).netloc.rpartition("@")[2] or self.url
        except ValueError:  # it is no address at all
            return self.url


def why_unreachable(sites: Sequence[Site], limit: float = REACH_SECONDS) -> str | None:
    """Return in a few words why one of ``sites`` is out of reach; None if none is.

    All are asked at once. Looking a name up cannot be interrupted, so this
    happens on daemon threads, which are left behind at the limit.
    """
    answers: queue.SimpleQueue[tuple[Site, str | None]] = queue.SimpleQueue()

    def ask(site: Site) -> None:
        answers.put((site, _why(site, limit)))

    for site in sites:
        threading.Thread(target=ask, args=(site,), daemon=True).start()
    waiting = list(sites)
    deadline = time.monotonic() + limit
    while waiting:
        try:
            site, reason = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return f"{waiting[0].host} cannot be reached (no answer within {limit:g} s)"
        if reason is not None:
            return f"{site.host} cannot be reached ({reason})"
        waiting.remove(site)
    return None


def _why(site: Site, limit: float) -> str | None:
    try:
        # An opener of its own: the shared one keeps the proxies of its first use.
        with urllib.request.build_opener().open(site.url, timeout=limit) as response:
            start: bytes = response.read(_PEEK_BYTES)
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code}"
    except urllib.error.URLError as error:
        reason = error.reason
        return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    if site.expected.encode() not in start:
        return "something else answers in its place"
    return None
