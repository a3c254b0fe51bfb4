"""OpenAI-compatible servers on the loopback address: a stub that fails as real ones do, and a real one."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Body = dict[str, Any]

TIMEOUT = 1.0
"""Seconds that the fault `timeout` keeps silent."""
DRIP = 0.05
"""Seconds between two bytes of the fault `slow`: never silent for long, and never done."""


def completion(weights: dict[str, float] | None, text: str = "A", *, prompt_tokens: int = 7) -> Body:
    """Return a chat completion that says `text`; `weights` are the first token's probabilities."""
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (weights or {}).items()]
    entry = {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": top}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "message": {"role": "assistant", "content": text},
                "logprobs": None if weights is None else {"content": [entry]},
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 1,
            "total_tokens": prompt_tokens + 1,
        },
    }


def asked(body: Body) -> str:
    """Return the last message of a chat request, or the prompt of a plain one."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


class Stub:
    """Answers by `reply(request body)`; `faults` are used up one per request, None meaning a good answer.

    Faults: `timeout` (silent for `TIMEOUT` seconds), a status code (`429`, `500`...), `truncated` (half the
    JSON), `wrong shape` (JSON without a choice), `not json`, `wrong tokens` (neither letter), `slow` (a byte
    every `DRIP` seconds), `cut` (the connection closes half-way).
    """

    def __init__(self, reply: Callable[[Body], Body]) -> None:
        self.reply = reply
        self.faults: list[str | None] = []
        self.requests: list[Body] = []
        """path, body, authorization of every request."""
        self.refuse: tuple[str, ...] = ()
        """Fields of a request that this server answers with 400, as some hosted ones do."""
        self.retry_after: str | None = None
        self.lock = threading.Lock()

    def next_fault(self) -> str | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else None


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    over: threading.Event

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = {"path": self.path, "body": body, "authorization": self.headers.get("Authorization")}
        with self.stub.lock:
            self.stub.requests.append(request)
        refused = [name for name in self.stub.refuse if name in body]
        fault = None if refused else self.stub.next_fault()
        if refused:
            text = f"Unsupported parameter: '{refused[0]}' is not supported with this model."
            self._send(400, json.dumps({"error": {"message": text, "param": refused[0]}}).encode())
        elif fault is not None and fault.isdecimal():
            self._send(int(fault), b'{"error": {"message": "injected"}}')
        else:
            if fault == "timeout":
                self.over.wait(TIMEOUT)
            payload = b"<html>gateway</html>" if fault == "not json" else _payload(self.stub, body, fault)
            self._send(200, payload, fault)

    def _send(self, status: int, payload: bytes, fault: str | None = None) -> None:
        self.send_response(status)
        kind = "text/event-stream" if payload.startswith(b"data:") else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        if status >= 400 and self.stub.retry_after is not None:
            self.send_header("Retry-After", self.stub.retry_after)
        with suppress(BrokenPipeError, ConnectionResetError):  # the client may have given up
            self.end_headers()
            if fault == "slow":
                self._drip(payload)
            else:
                self.wfile.write(payload[: len(payload) // 2] if fault == "cut" else payload)

    def _drip(self, payload: bytes) -> None:
        for byte in payload:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.over.wait(DRIP):
                return

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """Yield the base URL (`http://127.0.0.1:PORT/v1`) of a server that answers by the stub."""
    over = threading.Event()
    handler = type("Handler", (_Handler,), {"stub": stub, "over": over})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _payload(stub: Stub, body: Body, fault: str | None) -> bytes:
    shapes: dict[str | None, Body] = {
        "wrong shape": {"choices": []},
        "wrong tokens": completion({"The": 0.9, "I": 0.1}, "The"),
    }
    reply = shapes[fault] if fault in shapes else stub.reply(body)
    payload = _streamed(reply) if body.get("stream") else json.dumps(reply).encode()
    return payload[: len(payload) // 2] if fault == "truncated" else payload


def _streamed(reply: Body) -> bytes:
    """Return the reply as server-sent events, a word each, and last how it ended."""
    choice = reply["choices"][0]
    chat = "message" in choice
    text = choice["message"]["content"] if chat else choice["text"]
    rest = {key: value for key, value in choice.items() if key not in ("message", "text", "logprobs")}
    events: list[Body] = []
    for piece in [*re.findall(r"\S+\s*", text), None]:
        said = {"delta": {} if piece is None else {"content": piece}} if chat else {"text": piece or ""}
        ends = rest if piece is None else rest | {"finish_reason": None}
        events.append({"choices": [ends | said]})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end it where it does not."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def transformers_serve(folder: Path, *, seconds: float = 120.0) -> Iterator[str]:
    """Yield the base URL of `transformers serve FOLDER` on the CPU, started for this block and ended with it.

    The model's name in requests is the folder. Needs the packages of `transformers[serving]`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    log = folder / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words, "--dtype", "float32"],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        _await(process, f"http://127.0.0.1:{port}/health", seconds, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end(process)


def _await(process: subprocess.Popen[bytes], url: str, seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")
