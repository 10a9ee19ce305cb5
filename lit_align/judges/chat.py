"""One question to an OpenAI-compatible chat endpoint, asked again until it is answered or there is no hope.

The key is read from the environment for each request and held nowhere: no attribute, message or file has it.
"""

import json
import os
import re
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lit_align.judges.patience import JudgeError, Patience

_AGAIN = {408, 425, 429}  # and every 5xx: the same request may succeed later
_HOPELESS = {401, 403, 404, 405}  # the key, the address or the model is wrong: so will be all other questions
_LONGEST_WAIT = 60.0
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Unanswered(Exception):
    """A question that got no answer, and why."""


class Unreachable(Unanswered):
    """The server failed to the last retry: it is no matter of this question."""


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would carry the key to an address that nobody has named."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str) -> None:
        """Follow none."""


@dataclass(frozen=True)
class ChatEndpoint:
    """Where the questions go.

    Attributes:
        base_url: Up to and without ``/chat/completions``.
        api_key_env: Environment variable, in capitals, that holds the key; None sends none.
        max_retries: Times a question is asked again after an overloaded or failing server, >= 0.
        timeout: Seconds without a byte after which a request has failed, > 0.
        backoff: Seconds before the first retry, doubled before each further one; a server's ``Retry-After`` is kept.
    """

    base_url: str
    api_key_env: str | None
    max_retries: int = 5
    timeout: float = 60.0
    backoff: float = 1.0

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
        Patience(self.max_retries, self.backoff, self.timeout)

    @property
    def url(self) -> str:
        """Where a question is posted."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    def check(self) -> None:
        """Refuse an environment without the key."""
        if self.api_key_env is not None and not os.environ.get(self.api_key_env, "").strip():
            raise ValueError(
                f"judge.api_key_env: the environment has no {self.api_key_env}; export it, or set judge.api_key_env to "
                "null for a server that asks for no key"
            )

    def ask(self, payload: dict[str, Any]) -> str:
        """The reply's text; empty where the server's answer has none.

        Args:
            payload: As the chat completions protocol has it.

        Raises:
            Unanswered: The server refused this question.
            Unreachable: It failed to the last retry.
            JudgeError: The key, the address or the model is refused.
        """
        self.check()
        opener = build_opener(_NoRedirect)
        data = json.dumps(payload).encode()
        reason = ""
        for attempt in range(self.max_retries + 1):
            wait = min(self.backoff * 2**attempt, _LONGEST_WAIT)
            try:
                with opener.open(self._request(data), timeout=self.timeout) as answer:
                    return _content(answer.read())
            except HTTPError as error:
                reason = self._reason(error)
                if error.code in _HOPELESS or 300 <= error.code < 400:
                    raise JudgeError(f"judge: {self.url} refuses: {reason}") from None
                if error.code not in _AGAIN and error.code < 500:
                    raise Unanswered(reason) from None
                wait = _retry_after(error) or wait
            except (OSError, HTTPException) as error:  # no connection, a dropped one, a timeout
                reason = self._without_key(f"{type(error).__name__}: {error}")
            if attempt < self.max_retries:
                time.sleep(wait)
        raise Unreachable(reason)

    def _request(self, data: bytes) -> Request:
        request = Request(self.url, data, {"Content-Type": "application/json"})
        if self.api_key_env is not None:
            request.add_unredirected_header("Authorization", f"Bearer {os.environ[self.api_key_env].strip()}")
        return request

    def _reason(self, error: HTTPError) -> str:
        """Status and the server's words, except where it is the key that they are about: servers quote it."""
        reason = f"status {error.code}"
        if error.code in (401, 403):
            return f"{reason} (the key in {self.api_key_env})"
        try:
            words = " ".join(error.read(4096).decode(errors="replace").split())
        except (OSError, HTTPException):
            words = ""
        return self._without_key(f"{reason}: {words}")[:200] if words else reason

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.api_key_env or "", "").strip()
        return text.replace(key, "***") if key else text


def _content(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


def _retry_after(error: HTTPError) -> float | None:
    try:
        seconds = float(error.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
