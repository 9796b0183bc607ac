"""Serves the page of the runs, and their reports, as they are at that moment."""

import http.server
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.report.page import render as render_report
from igerg_jax.tools.runs import page, status

LOOPBACK = "127.0.0.1"
REFRESH_SECONDS = 5
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Server(http.server.ThreadingHTTPServer):
    """A server on the loopback interface, of the runs in a folder."""

    daemon_threads = True

    def __init__(self, port: int, folder: pathlib.Path, curves: Sequence[str]):
        """Listens at once. Raises UserError where the port is taken."""
        self.folder, self.curves = folder, curves
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"cannot listen on port {port} ({error}); give another: --port=0 takes a free one"
            ) from error

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def page_at(self, path: str) -> str | None:
        """The page at a path; None where there is none. Nothing else of the folder is shown."""
        runs = status.find(self.folder)
        if path == "/":
            title = self.folder.resolve().name
            return page.render(runs, title, self.curves, refresh_seconds=REFRESH_SECONDS)
        for run in runs:
            if path == f"/{run.name}/report.html":
                return render_report(run.workdir)
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        # A page of elsewhere whose name was made to lead here does not get what is served here.
        host = self.headers.get("Host", "").rpartition(":")[0]
        path = os.fsdecode(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(self.path).path))
        if host not in (LOOPBACK, "localhost"):
            self.send_error(403, "Not at this address")
            return
        try:
            found = self.server.page_at(path)
        except UserError as error:
            self.send_error(404, str(error).partition("\n")[0])
            return
        if found is None:
            self.send_error(404, "There is no such page")
            return
        body = storage.encoded(found)
        self.send_response(200)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing of every request."""
