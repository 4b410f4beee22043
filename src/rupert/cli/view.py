"""`rupert view`: a page on this machine that shows a study while it runs, and changes nothing."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path

from rupert.cli.arguments import Parser
from rupert.cli.viewing.news import News
from rupert.cli.viewing.server import Server
from rupert.cli.viewing.state import Viewer
from rupert.errors import FolderError, InvalidValue


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", type=Path, help="of `rupert run`: its --output-dir; it need not be there yet")
    parser.add_argument("--port", type=int, default=0, help="to listen on, 0 for any free one (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="only say the page's address")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    folder: Path = arguments.folder
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{str(folder)!r} is a file; name the folder of `rupert run`")
    news = News(Viewer(folder).look)
    try:
        with _server(arguments.port, folder, news) as server:
            print(f"page  {server.address}  (Ctrl-C ends it)", flush=True)
            if not arguments.no_browser and _has_screen():
                with suppress(webbrowser.Error):
                    webbrowser.open(server.address)
            server.serve_forever()
    except KeyboardInterrupt:
        print("\nended; the study is left as it is")
    finally:
        news.stop()
    return 0


def _server(port: int, folder: Path, news: News) -> Server:
    if not 0 <= port <= 65535:
        raise InvalidValue("--port", port, "name one from 1 to 65535, or 0 for any free one")
    try:
        return Server(port, folder, news)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InvalidValue("--port", port, "somebody listens there; name another, or 0 for any free one") from None
        if error.errno == errno.EACCES:
            raise InvalidValue("--port", port, "no permission to listen there; name one above 1023") from None
        raise


def _has_screen() -> bool:
    """Whether there is one to open a browser on: in a terminal alone, a text browser would take it over."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
