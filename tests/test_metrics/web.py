"""A real HTTP server on loopback that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# (path, query or form, headers, body) -> (status, body)
Answer = Callable[[str, dict[str, str], dict[str, str], str], tuple[int, str]]


@contextmanager
def web_server(answer: Answer) -> Iterator[str]:
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(told.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            status, text = answer(told.path, query, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
