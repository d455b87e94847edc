"""The report while a run goes on: the same page on this machine alone, its curves fed every few seconds."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from simclr.errors import ConfigError, PipelineError

__all__ = ["PORT", "Reply", "as_reply", "served"]

PORT = 8420
"""Where the page is first tried to be served; where that is taken, the next ones are."""

_TRIED = 20

Reply = tuple[str, bytes]
"""Type of what is sent, and its bytes."""


@contextmanager
def served(answer: Callable[[str], Reply | None], port: int = PORT) -> Iterator[str]:
    """Serve what ``answer`` gives for a path, on this machine alone, inside the block; gives the address.

    Args:
        answer: path, without the leading slash -> reply, or None where there is nothing. It is called in other threads.
        port: the first to try.

    Raises:
        ConfigError: no port is free.
    """
    server = _server(answer, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def _server(answer: Callable[[str], Reply | None], port: int) -> ThreadingHTTPServer:
    handler = type("_Handler", (_Handler,), {"answer": staticmethod(answer)})
    for number in range(port, port + _TRIED):
        try:
            return ThreadingHTTPServer(("127.0.0.1", number), handler)
        except OSError:
            continue
    raise ConfigError(f"none of the ports {port} to {port + _TRIED - 1} of this machine is free to serve the report")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; only to who asks for this machine by its own name, so that no page from elsewhere can read a run."""

    answer: Callable[[str], Reply | None]

    def do_GET(self) -> None:
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            path = unquote(urlsplit(self.path).path, errors="surrogateescape").lstrip("/")
        except ValueError:  # no address at all
            host, path = None, ""
        if host not in ("localhost", "127.0.0.1"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        try:
            reply = self.answer(path)
        except PipelineError as error:  # a file in the midst of being written
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=str(error))
            return
        if reply is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content = reply
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        with suppress(ConnectionError):  # a page that was closed meanwhile
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line every three seconds is for nobody."""


def as_reply(content: Mapping[str, object]) -> Reply:
    """JSON."""
    return "application/json", json.dumps(content).encode()
