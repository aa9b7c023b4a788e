"""Put ClickHouse's engine behind its HTTP interface, as far as we use it: `python serve_chdb.py FOLDER PORT USER KEY`.

Run by the Python that chDB is installed for. The engine is real, the interface is this file: one statement at a time,
an answer is complete before its first byte goes out, settings that the engine does not know are refused.
"""

from __future__ import annotations

import base64
import gzip
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# What the interface itself reads; all other parameters are settings of the engine.
_OWN = {"query", "database", "user", "password", "enable_http_compression", "wait_end_of_query", "query_id"}
_STATUS = {516: 403, 497: 403, 60: 404, 81: 404, 241: 500, 243: 500, 49: 500}
_INSERT = re.compile(r"(?s)\s*(INSERT INTO .*?)\s+FORMAT\s+(\w+)\s*$")
_ANSWER = re.compile(r"(?s)(\s*(?:SELECT|WITH|SHOW|EXPLAIN|DESCRIBE)\b.*?)(?:\s+FORMAT\s+(\w+))?\s*$")


class Failed(Exception):
    """A statement failed as the engine says."""


class Engine:
    """The one session of this process."""

    def __init__(self, folder: Path) -> None:
        self._session = import_module("chdb.session").Session(str(folder / "data"))
        self._folder = folder
        self._lock = threading.Lock()
        self._settings = set(self._run("SELECT name FROM system.settings", "TSV").decode().split())

    def _run(self, text: str, form: str) -> bytes:
        try:
            return bytes(self._session.query(text, form).bytes() or b"")
        except Exception as error:
            raise Failed(str(error)) from error

    def done(self, text: str, body: bytes, settings: dict[str, str]) -> bytes:
        """Return the answer to a statement."""
        for name in settings:
            if name not in self._settings:
                raise Failed(f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
        told = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        told = f" SETTINGS {told}" if told else ""
        with self._lock:
            if insert := _INSERT.match(text):
                with tempfile.NamedTemporaryFile(dir=self._folder) as rows:
                    rows.write(body)
                    rows.flush()
                    return self._run(f"{insert[1]} FROM INFILE '{rows.name}'{told} FORMAT {insert[2]}", "TSV")
            if answer := _ANSWER.match(text):
                own = "" if " SETTINGS " in answer[1] or answer[1].lstrip().startswith("EXPLAIN") else told
                return self._run(f"{answer[1]}{own}", answer[2] or "TSV")
            return self._run(text, "TSV")


class Door(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    engine: Engine
    user: str
    key: str

    def log_message(self, *told: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer /ping and questions."""
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n")
        else:
            self.do_POST()

    def do_POST(self) -> None:
        """Answer a statement."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        told = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        try:
            self._let_in(told)
            text, rows = (told["query"], body) if "query" in told else (body.decode(), b"")
            settings = {name: value for name, value in told.items() if name not in _OWN}
            self._answer(200, self.engine.done(text, rows, settings), packed=told.get("enable_http_compression") == "1")
        except Failed as error:
            code = int(found[1]) if (found := re.search(r"Code: (\d+)", str(error))) else 1001
            self._answer(_STATUS.get(code, 400), f"{error}\n".encode(), code=code)

    def _let_in(self, told: dict[str, str]) -> None:
        if self._who(told) != (self.user, self.key):
            raise Failed("Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)")

    def _who(self, told: dict[str, str]) -> tuple[str, str]:
        if basic := self.headers.get("Authorization", "").removeprefix("Basic "):
            user, _, key = base64.b64decode(basic).decode().partition(":")
            return user, key
        user = self.headers.get("X-ClickHouse-User") or told.get("user") or "default"
        return user, self.headers.get("X-ClickHouse-Key") or told.get("password") or ""

    def _answer(self, status: int, body: bytes, *, code: int = 0, packed: bool = False) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        if packed and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_header("Content-Encoding", "gzip")
            body = gzip.compress(body, 1)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    folder, port, Door.user, Door.key = sys.argv[1:]
    Door.engine = Engine(Path(folder))
    ThreadingHTTPServer(("127.0.0.1", int(port)), Door).serve_forever()
