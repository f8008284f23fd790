"""Serve a built page on this machine, with the headers that let a browser use threads."""

from __future__ import annotations

import errno
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from export.demo.build import STATIC

_, _, _POLICY = (
    (STATIC / "index.html").read_text(encoding="utf-8").partition('"Content-Security-Policy" content="')
)
_POLICY = _POLICY.partition('"')[0]
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A worker takes its policy from its own response, not from the page's tag.
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
"""The first two make a page ``crossOriginIsolated``, which WebAssembly's threads need."""


class _Handler(SimpleHTTPRequestHandler):
    # Written out: some systems' tables give JavaScript another type, which browsers refuse for modules.
    extensions_map = {  # noqa: RUF012 - as the base class declares it
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
        ".md": "text/plain; charset=utf-8",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a visitor who leaves while a file is sent
            super().handle_error(request, client_address)


def server_of(folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder's files that is bound, but does not serve yet; port 0 takes a free one.

    Raises:
        ValueError: The address cannot be used.
    """
    try:
        return _Server((host, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        used = "in use; choose another port, or --port=0 for a free one"
        reason = used if error.errno == errno.EADDRINUSE else error.strerror
        raise ValueError(f"--host={host} --port={port}: {reason}") from error
    except OverflowError:
        raise ValueError(f"--port={port}: expected 0 to 65535") from None
