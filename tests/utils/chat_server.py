"""An endpoint like OpenAI's, in this process, that answers as a test wants it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("small", "large")


class Asked(list):
    """The bodies of the requests so far, and beside them their headers."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0


def said(text: str | None, **more: Any) -> dict[str, Any]:
    """What such an endpoint answers."""
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return {"model": "small-2026", "choices": [choice], "usage": {"total_tokens": 10}, **more}


@contextmanager
def chat_server(answer: Callable[[int, dict], tuple[int, Any, dict[str, str]]]) -> Iterator[tuple[str, Asked]]:
    """The address, and what was asked. ``answer``: (number of the request, its body) → status, content (bytes as they are), headers."""
    asked, lock = Asked(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self._send(404, {"detail": "Not Found"}, {})
            with lock:
                number = len(asked)
                asked.append(body)
                asked.headers.append(dict(self.headers))
                asked.at_once += 1
                asked.most_at_once = max(asked.most_at_once, asked.at_once)
            try:
                answered = answer(number, body)
            finally:
                with lock:
                    asked.at_once -= 1
            return self._send(*answered)

        def do_GET(self):
            if self.path == "/v1/models":
                self._send(200, {"data": [{"id": name} for name in MODELS]}, {})
            else:
                self._send(404, {"detail": "Not Found"}, {})

        def _send(self, status, content, headers):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/v1", asked
        finally:
            http.shutdown()
