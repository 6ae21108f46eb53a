"""InfluxDB's v2 write API in front of a server of version 1, so that the real engine can be had under it.

    POST /api/v2/write?bucket=B&org=O&precision=ns   ->   POST /write?db=B&precision=ns

It checks the token as version 2 does, and answers a partial write with 422 as version 2 does. It can be told to
misbehave: to answer the next requests with a status of its own, to lose answers after the data were stored.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson


class InfluxProxy:
    """Serves on a port of 127.0.0.1; use as a context manager.

    `failing`: answers still to be given instead of forwarding, each a status. `lost`: how many answers are still to be
    lost after the data were stored. `requests` counts what arrived.
    """

    def __init__(self, upstream: str, token: str = "secret") -> None:
        self.upstream = upstream
        self.token = token
        self.failing: list[int] = []
        self.lost = 0
        self.requests = 0
        self.refuse = threading.Event()  # while set, every request is answered with 503
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests += 1
                status, answer = proxy._answer(self.path, self.headers, body)
                if status == 204 and proxy.lost:
                    proxy.lost -= 1
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def _answer(self, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if headers.get("Authorization") != f"Token {self.token}":
            return 401, orjson.dumps({"code": "unauthorized", "message": "unauthorized access"})
        if self.refuse.is_set():
            return 503, orjson.dumps({"code": "unavailable", "message": "told to refuse"})
        if self.failing:
            return self.failing.pop(0), orjson.dumps({"code": "test", "message": "told to fail"})
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path != "/api/v2/write":
            return 404, b"{}"
        target = f"{self.upstream}/write?{urlencode({'db': query['bucket'], 'precision': query['precision']})}"
        try:
            with urllib.request.urlopen(urllib.request.Request(target, data=body, method="POST"), timeout=30) as answer:
                return answer.status, b""
        except urllib.error.HTTPError as error:
            with error:
                said = error.read()
            return 422 if error.code == 400 and b"partial write" in said else error.code, said
        except OSError as error:
            return 503, orjson.dumps({"code": "unavailable", "message": str(error)})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
