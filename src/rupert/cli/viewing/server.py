"""The server of `rupert view`: a few fixed addresses on this machine, which only tell.

No part of a request's address becomes a part of a path. Pages of other origins cannot read what is told, and names that
another machine's page could point to this one (DNS rebinding) are refused.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from rupert.cli.viewing.news import News
from rupert.cli.viewing.state import REPORT

ADDRESS = "127.0.0.1"
HEARTBEAT = 15.0  # seconds
PATIENCE = 30.0  # seconds that a client may take to ask, or to take what it is told
BLOCK = 1 << 16
# Nothing is loaded but from this server, and nothing runs that stands in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is one file with its scripts in it, under a policy of its own; here it is a stranger, whoever wrote it.
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-downloads allow-modals allow-popups"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# address -> our own file, and its kind
FILES = {
    "/": ("view.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
}


class Server(ThreadingHTTPServer):
    """Listens on this machine only; each client has a thread, so that none waits for another."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, folder: Path, news: News) -> None:
        """Bind, at any free port where `port` is 0.

        Args:
            port: to listen on.
            folder: of the study, whose report is shown.
            news: what is told of it.
        """
        self.folder = folder
        self.news = news
        self.own_files = {
            address: (files("rupert.report").joinpath("templates", name).read_bytes(), kind)
            for address, (name, kind) in FILES.items()
        }
        super().__init__((ADDRESS, port), Handler)
        self.names = _names(self.port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Of the live page."""
        return f"http://{ADDRESS}:{self.port}/"

    def server_bind(self) -> None:
        """Bind without asking for this machine's name, which can take long where there is no network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _names(port: int) -> frozenset[str]:
    """What a browser on this machine calls the server."""
    hosts = (ADDRESS, "localhost")
    return frozenset([f"{host}:{port}" for host in hosts] + (list(hosts) if port == 80 else []))


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Tell what is asked for, if the address is one of ours."""
        if not self._is_from_here():
            return
        address = self.path.partition("?")[0]
        if address in self.server.own_files:
            content, kind = self.server.own_files[address]
            self._answer(HTTPStatus.OK, content, {"Content-Type": kind, "Content-Security-Policy": POLICY})
        elif address == "/events":
            self._events()
        elif address == "/report":
            self._report()
        elif address == "/favicon.ico":
            self._answer(HTTPStatus.NO_CONTENT)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse in fixed words: nothing of the request comes back. A method that is not known is not allowed."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        allowed = {"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
        kind = {"Content-Type": "text/plain; charset=utf-8", "Content-Security-Policy": POLICY}
        self._answer(status, f"{status.phrase}\n".encode(), {**kind, **allowed})

    def version_string(self) -> str:
        """What it calls itself."""
        return "rupert"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The terminal is left alone."""

    def _is_from_here(self) -> bool:
        """Whether it is asked by its own name, and not by a page of another origin, but for a link to it."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].strip().lower() not in self.server.names:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return False
        site, mode = self.headers.get("Sec-Fetch-Site", "none"), self.headers.get("Sec-Fetch-Mode", "")
        if site not in ("same-origin", "none") and mode != "navigate":
            self.send_error(HTTPStatus.FORBIDDEN)
            return False
        return True

    def _answer(self, status: HTTPStatus, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self._begin(status, {**(headers or {}), "Content-Length": str(len(content))})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _events(self) -> None:
        """Tell each state as it comes, the latest one first, until the client goes away."""
        news = self.server.news
        with news.listening() as admitted:
            if not admitted:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            self._begin(HTTPStatus.OK, {"Content-Type": "text/event-stream", "Content-Security-Policy": POLICY})
            if self.command == "HEAD":
                return
            self.wfile.write(b"retry: 2000\n\n")
            told = 0
            while not news.ended:
                number, state = news.after(told, HEARTBEAT)
                self.wfile.write(f"data: {state}\n\n".encode() if number != told else b": still here\n\n")
                told = number

    def _report(self) -> None:
        """Send the study's report as it is now; a link is not followed."""
        kind = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": REPORT_POLICY}
        descriptor = _opened(self.server.folder / REPORT)
        if descriptor is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with open(descriptor, "rb") as file:  # noqa: PTH123
            left = os.fstat(descriptor).st_size
            self._begin(HTTPStatus.OK, {**kind, "Content-Length": str(left)})
            while self.command != "HEAD" and left > 0 and (block := file.read(min(BLOCK, left))):
                self.wfile.write(block)
                left -= len(block)


def _opened(path: Path) -> int | None:
    """The descriptor of a plain file; none where there is none, where it is a link, a pipe, or may not be read."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    return None
