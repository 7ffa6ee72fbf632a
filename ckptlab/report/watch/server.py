"""Serve the page that follows a run, on loopback and to whoever has its address alone."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ckptlab.errors import ConfigError
from ckptlab.report.page import environment, own_colours, plotly_script, read_asset
from ckptlab.report.theme import THEMES, plotly_template
from ckptlab.report.watch.feed import LOCAL_SECONDS, Feed

HOST = "127.0.0.1"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Follower:
    """Looks at a run again and again, in a thread of its own."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.lock = threading.Lock()
        self.notice = ""
        self.wait = LOCAL_SECONDS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="ckptlab-watch")

    def start(self) -> None:
        """Begin; what cannot be read the first time is an error."""
        self.wait = self.feed.poll()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopped.wait(self.wait):
            with self.lock:
                try:
                    self.wait = self.feed.poll()
                    self.notice = ""
                # Whatever happens to the run, the page keeps what it has and says so.
                except Exception as error:
                    self.notice = str(error) or type(error).__name__

    def points(self, epoch: int, counts: dict[str, int]) -> dict[str, Any]:
        """Return what a page lacks that has so many points of each track, as JSON."""
        with self.lock:
            feed = self.feed
            known = counts if epoch == feed.epoch else {}
            return {
                "epoch": feed.epoch,
                "tracks": {n: t.since(known.get(n, 0)) for n, t in feed.tracks.items()},
                "panels": [asdict(panel) for panel in feed.panels()],
                "status": {**feed.status, "notice": self.notice},
                "wait": self.wait,
            }


@contextmanager
def serve(feed: Feed, port: int = 0) -> Iterator[str]:
    """Serve a page about a run; yield its address, which holds a token.

    `port` 0 takes a free one. ConfigError if the port is taken, StoreError if there is no run.
    """
    follower = Follower(feed)
    follower.start()
    token = secrets.token_urlsafe(16)
    files = _files(feed)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            # A page of another origin, whose name was made to lead here, has another host.
            hosts = {f"{name}:{server.server_port}" for name in (HOST, "localhost")}
            folder, _, name = asked.path.lstrip("/").partition("/")
            same = secrets.compare_digest(folder.encode(), token.encode())
            if self.headers.get("Host") not in hosts or not same:
                return self._send(b"not found", "text/plain", 404)
            if name == "points":
                return self._send(_answer(follower, asked.query), "application/json")
            if name not in files:
                return self._send(b"not found", "text/plain", 404)
            return self._send(*files[name])

        def _send(self, body: bytes, kind: str, code: int = 200) -> None:
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            for header, value in HEADERS.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        follower.stop()
        raise ConfigError(
            f"port {port} cannot be listened on ({error}); choose another, or 0 for a free one",
            parameter="port",
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/{token}/"
    finally:
        server.shutdown()
        server.server_close()
        follower.stop()


def _answer(follower: Follower, query: str) -> bytes:
    """Answer a page's question; numbers it cannot have make it begin anew."""
    asked = {name: values[0] for name, values in parse_qs(query).items()}
    try:
        numbers = {name: int(value) for name, value in asked.items()}
    except ValueError:
        numbers = {}
    epoch = numbers.pop("epoch", -1)
    if any(count < 0 for count in numbers.values()):
        epoch = -1
    text = json.dumps(follower.points(epoch, numbers), allow_nan=False, separators=(",", ":"))
    return text.encode()


def _files(feed: Feed) -> dict[str, tuple[bytes, str]]:
    looks = {
        name: {
            "template": plotly_template(name).to_plotly_json(),
            "colours": theme.colours,
            "quiet": theme.quiet,
        }
        for name, theme in THEMES.items()
    }
    page = environment().get_template("watch.html").render(name=feed.name, looks=looks)
    return {
        "": (page.encode(), "text/html"),
        "page.css": ((own_colours() + read_asset("page.css")).encode(), "text/css"),
        "plotly.js": (plotly_script().encode(), "text/javascript"),
        "watch.js": (read_asset("watch.js").encode(), "text/javascript"),
    }
