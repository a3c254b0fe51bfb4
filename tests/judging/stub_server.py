"""An OpenAI-compatible server on the loopback address that can be told to fail as real ones do."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str | None


def completion(weights: dict[str, float] | None, text: str = "A") -> dict[str, Any]:
    import math

    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (weights or {}).items()]
    logprobs = (
        None
        if weights is None
        else {"content": [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": top}]}
    )
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": text},
        "logprobs": logprobs,
    }
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


class Stub:
    """Answers by `reply(messages)`; `faults` are used up one per request, None meaning a good answer."""

    def __init__(self, reply: Callable[[str], dict[str, Any]]) -> None:
        self.reply = reply
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def next_fault(self) -> Fault:
        with self.lock:
            return self.faults.pop(0) if self.faults else None


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                stub.requests.append({"body": body, "authorization": self.headers.get("Authorization")})
            fault = stub.next_fault()
            if fault == "timeout":
                time.sleep(1.0)
            elif fault is not None and fault.isdecimal():
                self._send(int(fault), b'{"error": {"message": "injected"}}')
                return
            payload = json.dumps(stub.reply(body["messages"][-1]["content"])).encode()
            if fault == "truncated":
                payload = payload[: len(payload) // 2]
            elif fault == "wrong shape":
                payload = b'{"choices": []}'
            self._send(200, payload)

        def _send(self, status: int, payload: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
