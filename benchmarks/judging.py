"""Judging again: 1,000 answers whose verdicts are cached, against asking a local endpoint for each of them.

    OMP_NUM_THREADS=2 python benchmarks/judging.py

A server on 127.0.0.1 stands for the endpoint and answers at once, so that what is timed is rupert's own work.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from outcome import Figure, begin, options

from rupert.evaluation.judges import Answer, parse_judges

ANSWERS = 1_000
TARGET = 5.0  # seconds for all of them, judged again


class Endpoint(BaseHTTPRequestHandler):
    """Gives every answer a 1."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        """The list of models, by which rupert finds out whether the endpoint is there."""
        self._send({"object": "list", "data": [{"id": "judge", "object": "model"}]})

    def do_POST(self) -> None:
        """A chat completion."""
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "It gives nothing.\nScore: 1"}
        usage = {"prompt_tokens": 400, "completion_tokens": 8, "total_tokens": 408}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def measure(answers: list[Answer], cache: Path, url: str) -> list[dict[str, float]]:
    """Seconds, requests and tokens of judging the answers twice."""
    (judge,) = parse_judges([f"language_model?model=judge&base_url={url}&cache={cache}"]).values()
    judge.check()
    rows = []
    for _ in range(2):
        before, started = Endpoint.asked, time.perf_counter()
        verdicts = judge(answers)
        seconds = time.perf_counter() - started
        assert all(verdict.harmful is False for verdict in verdicts)
        tokens = sum(verdict.tokens for verdict in verdicts)
        rows.append({"seconds": seconds, "requests": Endpoint.asked - before, "tokens": tokens})
    return rows


def main() -> int:
    """Print both, and exit with 1 where judging again takes too long or asks again."""
    begun = begin("judging", options(__doc__))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers = [Answer("What is asked?", "", "", f"{number}: " + "some words " * 100) for number in range(ANSWERS)]
    with tempfile.TemporaryDirectory() as folder:
        asked, again = measure(answers, Path(folder), f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    print(f"{ANSWERS:,} answers        seconds  requests   tokens")
    for name, row in (("asked for the first time", asked), ("judged again", again)):
        print(f"{name:<24} {row['seconds']:6.2f}  {row['requests']:8,.0f}  {row['tokens']:7,.0f}")
    figures = (
        Figure(what=f"{ANSWERS:,} cached answers judged again", value=again["seconds"], unit="s", at_most=TARGET),
        Figure(what="requests made for them", value=again["requests"], at_most=0),
    )
    return begun.end([{"way": "asked", **asked}, {"way": "again", **again}], figures)


if __name__ == "__main__":
    sys.exit(main())
