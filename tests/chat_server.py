"""A chat endpoint on this machine that answers as a test says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very-secret"


def longer(question: str) -> str:
    """Judges fairly: the longer answer."""
    _, first, second = question.split("|")
    return "A" if len(first) > len(second) else "B" if len(second) > len(first) else "tie"


@dataclass
class Server:
    """Replies with ``reply(question)``: text, or (status, body), or seconds to sleep before saying ``A``."""

    reply: Callable = longer
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    requests: list[tuple[str, dict, dict]] = field(default_factory=list)
    url: str = ""


def chat_server(monkeypatch) -> Iterator[Server]:
    """What a fixture yields from: a server on this machine, and a key for it in the environment."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = payload["messages"][0]["content"]
            state.asked.append(question)
            state.requests.append((self.path, dict(self.headers), payload))
            reply = state.reply(question)
            if isinstance(reply, float):
                time.sleep(reply)
                reply = "A"
            status, body = reply if isinstance(reply, tuple) else (200, said(reply))
            try:
                self.send_response(status)
                for name, value in state.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the judge has hung up

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def said(text) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
