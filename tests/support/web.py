"""A small HTTP server of the test's own machine, for guests to ask."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

__all__ = ["ANSWER", "web_server"]

ANSWER = "from the host\n"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def web_server(ip: str, family: socket.AddressFamily) -> Iterator[int]:
    """Answer every request on an address for the length of the block; yield the port."""
    http = ThreadingHTTPServer((ip, 0), _Answer, bind_and_activate=False)
    http.socket.close()
    http.socket = socket.socket(family)
    with http:
        http.server_bind()
        http.server_activate()
        thread = Thread(target=http.serve_forever)
        thread.start()
        try:
            yield int(http.server_address[1])
        finally:
            http.shutdown()
            thread.join()
