"""ClickHouse's engine behind its HTTP interface; run by the engines' own Python: ``serve_clickhouse.py PORT FOLDER PASSWORD``.

The engine (chdb) is the real part: SQL, parameters, settings, formats, error codes and texts are its own. This file
hands it what a request says and answers with the status and header that the server's documentation and source give
an error's code; only a refused login is worded here, as the server words it.
"""

from __future__ import annotations

import base64
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from chdb.session import Session

PORT, FOLDER, PASSWORD = int(sys.argv[1]), sys.argv[2], sys.argv[3]
USER = "reader"
# Codes and their status; whatever else is 500, as in the server.
STATUS = {
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117), 400),
    516: 403,
    **dict.fromkeys((46, 47, 50, 60, 63, 73, 81, 115), 404),
    159: 408,
    48: 501,
}
# Which of a request's names are no settings.
NO_SETTINGS = ("database", "query")
# Settings of a session that forbid to change others come last.
LAST = "readonly"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        told = base64.b64decode((self.headers.get("Authorization") or "Basic ")[6:]).decode()
        if told != f"{USER}:{PASSWORD}":
            user = told.partition(":")[0]
            return self.refuse(
                f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, or there is no user "
                "with such name. (AUTHENTICATION_FAILED) (version 26.9.2.1)\n"
            )
        with Session(FOLDER) as session:
            try:
                if "database" in query:
                    session.query(f"USE {_name(query['database'])}")
                for name in sorted(set(query) - set(NO_SETTINGS), key=lambda name: name == LAST):
                    session.query(f"SET {_name(name)} = {_literal(query[name])}")
                body = session.query(text, "TabSeparated").bytes()
            except Exception as error:
                return self.refuse(f"{error}\n")
        return self.answer(200, body)

    def refuse(self, said: str) -> None:
        found = re.match(r"Code: (\d+)", said)
        code = int(found[1]) if found else 0
        self.answer(STATUS.get(code, 500), said.encode(), code)

    def answer(self, status: int, body: bytes, code: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing to say."""


def _name(text: str) -> str:
    if not re.fullmatch(r"\w+", text):
        raise ValueError(f"expected a name, got {text!r}")
    return text


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


if __name__ == "__main__":
    # Kept open, so that the engine does not start anew with each request.
    kept = Session(FOLDER)
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
