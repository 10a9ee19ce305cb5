"""An OpenAI-compatible chat endpoint is asked many questions at once; each is retried until it is answered or hopeless.

The key is read from the environment for each batch of questions and kept nowhere: no attribute, message or file has it.
"""

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lit_align.judges.patience import JudgeError, MayPass, Patience, in_thread

_BUSY = {408, 425, 429}  # the same request may succeed later, as after every 5xx
_HOPELESS = {401, 403, 404, 405}  # the key, the address or the model is wrong, and other questions would fail too
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEADERS = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}

T = TypeVar("T")
Payload = dict[str, Any]
"""It is a question, as the chat completions protocol has it."""


class Unanswered(Exception):
    """Says why a question got no answer."""


class Unreachable(Unanswered, MayPass):
    """Says that the server failed, which is no matter of this question."""


@dataclass(frozen=True)
class ChatEndpoint:
    """Asks questions of one endpoint.

    Attributes:
        base_url: Address without ``/chat/completions``.
        api_key_env: Environment variable, in capitals, that holds the key; None sends none.
        patience: Patience with an overloaded or failing server, whose ``Retry-After`` is kept; the timeout is in
            seconds without a byte.
        concurrency: Questions under way at once, >= 1.
    """

    base_url: str
    api_key_env: str | None
    patience: Patience
    concurrency: int = 8

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"judge.base_url must begin with http:// or https://, got {self.base_url!r}")
        # What is given here ends up in the saved config, and in messages: neither may hold a secret.
        address = urlsplit(self.base_url)
        if "@" in address.netloc or address.query:
            raise ValueError(
                "judge.base_url must hold no user, password or query: the key comes from judge.api_key_env"
            )
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                "judge.api_key_env must be the name of an environment variable in capitals, such as OPENAI_API_KEY, "
                "and not the key itself"
            )
        if self.concurrency < 1:
            raise ValueError(f"judge.concurrency must be >= 1, got {self.concurrency}")

    @property
    def url(self) -> str:
        """Return the address that a question is posted to."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def key(self) -> str:
        """Return the key that the environment has; it is empty where no key is sent."""
        return os.environ.get(self.api_key_env or "", "").strip()

    def check(self) -> None:
        """Refuse an environment without the key."""
        if self.api_key_env is not None and not self.key:
            raise ValueError(
                f"judge.api_key_env: the environment has no {self.api_key_env}; export it, or set judge.api_key_env to "
                "null for a server that asks for no key"
            )

    def ask(self, payloads: Sequence[Payload], answered: Callable[[int, str], None]) -> list[str | Unanswered]:
        """Return each question's reply, empty where the server's answer has no text, or why there is none.

        Once many in a row have failed to the last retry, the rest is not asked.

        Args:
            payloads: The questions.
            answered: Is told the number of a question and its reply as soon as it is there, in another thread.

        Raises:
            JudgeError: The key, the address or the model is refused.
        """
        if not payloads:
            return []
        self.check()
        return in_own_loop(self._ask_all(payloads, answered))

    async def _ask_all(
        self, payloads: Sequence[Payload], answered: Callable[[int, str], None]
    ) -> list[str | Unanswered]:
        places, failed_in_a_row = asyncio.Semaphore(self.concurrency), 0

        async def ask(number: int) -> str | Unanswered:
            nonlocal failed_in_a_row
            async with places:
                if failed_in_a_row >= 2 * self.concurrency:
                    return Unanswered("not asked, after as many questions in a row had failed to the last retry")
                try:
                    reply: str = await reply_of(client, payloads[number])
                except Unreachable as error:
                    failed_in_a_row += 1
                    return error
                except Unanswered as error:
                    return error
                failed_in_a_row = 0
                answered(number, reply)
                return reply

        reply_of = self.patience.retrying(self._reply, lambda error: isinstance(error, Unreachable))
        async with self._client() as client:
            return await asyncio.gather(*map(ask, range(len(payloads))))

    def _client(self) -> Any:
        """Return the official client, which reaches this endpoint alone and sends nothing that is not ours.

        Its own retries are off: their waits cannot be set, and there would be two rules of retrying.
        """
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # it takes a second to import

        key = self.key

        async def send_ours_alone(request: Any) -> None:
            # The client adds headers from OPENAI_* variables, which may be secrets of another host, and of the machine.
            for name in set(request.headers) - _HEADERS:
                del request.headers[name]
            if key:
                request.headers["Authorization"] = f"Bearer {key}"

        http = DefaultAsyncHttpxClient(
            follow_redirects=False,  # the key would go to an address that nobody has named
            trust_env=self.base_url.startswith("https://"),  # a proxy tunnels https unread, and would read http
            event_hooks={"request": [send_ours_alone]},
        )
        return AsyncOpenAI(
            api_key=key or "none",  # the client insists on a key
            base_url=self.base_url,
            organization="",
            project="",
            max_retries=0,
            timeout=self.patience.timeout,
            http_client=http,
        )

    async def _reply(self, client: Any, payload: Payload) -> str:
        from openai import APIConnectionError, APIStatusError

        try:
            completion = await client.chat.completions.create(**payload)
        except APIStatusError as error:
            raise self._failure(error.response) from None
        except APIConnectionError as error:  # there is no connection, it was dropped, or it timed out
            reason = f"{type(error).__name__}: {str(error.__cause__ or '') or error}"
            raise Unreachable(self._without_key(reason)) from None
        return _content(completion)

    def _failure(self, response: Any) -> Exception:
        status, reason = response.status_code, self._reason(response)
        if status in _HOPELESS or 300 <= status < 400:
            return JudgeError(f"judge: {self.url} refuses: {reason}")
        if status not in _BUSY and status < 500:
            return Unanswered(reason)
        return Unreachable(reason, retry_after=_seconds(response.headers.get("Retry-After", "")))

    def _reason(self, response: Any) -> str:
        """Return the status and the server's words, except where these are about the key: servers quote it."""
        reason = f"status {response.status_code}"
        if response.status_code in (401, 403):
            return f"{reason} (the key in {self.api_key_env})"
        words = " ".join(response.text.split())
        return self._without_key(f"{reason}: {words}")[:200] if words else reason

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, run in a thread and event loop of its own, as a notebook's has a loop already.

    The work is cancelled when the wait is stopped, by Ctrl-C for example.
    """
    loop = asyncio.new_event_loop()

    def run() -> T:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(work)

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    try:
        return in_thread(run)
    except BaseException:
        with suppress(RuntimeError):  # the loop is closed: the work has ended by itself
            loop.call_soon_threadsafe(cancel)
        raise


def _content(completion: Any) -> str:
    try:
        content = completion.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


def _seconds(text: str) -> float | None:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return None
