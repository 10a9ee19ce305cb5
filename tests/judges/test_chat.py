"""Questions go to the endpoint that was named and nowhere else, with its key and nothing of others, from any thread."""

import asyncio
import json
import os
import signal
import socket
import threading

import pytest

from lit_align import JudgeError, Patience
from lit_align.judges.chat import ChatEndpoint, Unanswered, Unreachable, in_own_loop
from tests.chat_server import KEY, Server, chat_server

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "|a|b"}]}
FOREIGN = {
    "OPENAI_ORG_ID": "foreign-organisation",
    "OPENAI_PROJECT_ID": "foreign-project",
    "OPENAI_ADMIN_KEY": "foreign-admin",
    "OPENAI_WEBHOOK_SECRET": "foreign-hook",
    "OPENAI_CUSTOM_HEADERS": "X-Secret: foreign-header\nAuthorization: Bearer foreign-key",
}


@pytest.fixture
def server(monkeypatch):
    yield from chat_server(monkeypatch)


@pytest.fixture
def other(monkeypatch):
    """A host that nobody has named."""
    yield from chat_server(monkeypatch)


def ask(url: str, api_key_env: str | None = "OPENAI_API_KEY", timeout: float = 60.0) -> list[str | Unanswered]:
    return ChatEndpoint(url, api_key_env, Patience(0, timeout=timeout)).ask([PAYLOAD], lambda number, reply: None)


def sent(server: Server) -> str:
    return json.dumps(server.requests)


@pytest.mark.parametrize("variable", ["MY_KEY", None])
def test_what_the_environment_has_for_openai_reaches_no_other_host(server, other, monkeypatch, variable):
    monkeypatch.setenv("MY_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_BASE_URL", other.url)
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    assert ask(server.url, variable) == ["tie"]
    assert not other.requests
    ((_, headers, _),) = server.requests
    assert headers.get("Authorization") == (None if variable is None else "Bearer sk-mine")
    assert "foreign" not in sent(server)
    assert KEY not in sent(server)


def test_nothing_is_told_of_the_machine(server):
    ask(server.url)
    ((_, headers, _),) = server.requests
    usual = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
    assert {name.lower() for name in headers} - usual == {"user-agent"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server, other, status):
    server.reply, server.headers = (lambda question: (status, b"")), {"Location": f"{other.url}/chat/completions"}
    with pytest.raises(JudgeError, match=f"refuses: status {status}"):
        ask(server.url)
    assert [path for path, *_ in server.requests] == ["/v1/chat/completions"]
    assert not other.requests


def set_proxies(monkeypatch, url: str) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.lower(), url)


def test_a_proxy_never_reads_a_question_or_a_key(server, other, monkeypatch):
    set_proxies(monkeypatch, other.url.removesuffix("/v1"))
    assert ask(server.url) == ["tie"]
    assert not other.requests


def test_a_proxy_of_an_encrypted_line_is_a_tunnel(monkeypatch):
    heard = []

    def refuse(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            heard.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        set_proxies(monkeypatch, f"http://127.0.0.1:{listening.getsockname()[1]}")
        proxy = threading.Thread(target=refuse, args=(listening,))
        proxy.start()
        (reply,) = ask("https://judge.invalid/v1")
        proxy.join()
    assert isinstance(reply, Unreachable)
    assert heard[0].startswith(b"CONNECT judge.invalid:443 HTTP/1.1\r\n")
    assert KEY.encode() not in heard[0]


def test_it_works_where_an_event_loop_is_running_as_in_a_notebook(server):
    async def cell() -> list[str | Unanswered]:
        return ask(server.url)

    assert asyncio.run(cell()) == ["tie"]


def test_the_work_has_a_loop_of_its_own_and_its_error_is_raised():
    async def work() -> int:
        return id(asyncio.get_running_loop())

    async def fail() -> None:
        raise KeyError("mine")

    async def cell() -> tuple[int, int]:
        return in_own_loop(work()), await work()

    own, outer = asyncio.run(cell())
    assert own != outer
    with pytest.raises(KeyError, match="mine"):
        in_own_loop(fail())


def test_what_stops_the_wait_cancels_the_work(monkeypatch):
    cancelled = threading.Event()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_own_loop(work())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert cancelled.wait(60)


def test_every_answer_is_told_as_it_comes(server):
    first, told = threading.Event(), []

    def answered(number: int, reply: str) -> None:
        told.append((number, reply))
        first.set()

    def reply(question: str) -> str:
        if question == "second":
            assert first.wait(60)
        return question

    server.reply = reply
    payloads = [PAYLOAD | {"messages": [{"role": "user", "content": text}]} for text in ("first", "second")]
    endpoint = ChatEndpoint(server.url, None, Patience(0, timeout=60.0))
    assert endpoint.ask(payloads, answered) == ["first", "second"]
    assert told == [(0, "first"), (1, "second")]


def test_no_question_costs_nothing():
    assert ChatEndpoint("http://127.0.0.1:9", "NO_SUCH_KEY", Patience()).ask([], print) == []
