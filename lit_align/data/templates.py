"""Records become tokens here, and nowhere else: the chat template is applied once."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch

from lit_align.data.messages import conversation_of, rendered, tools_of
from lit_align.data.records import as_asked
from lit_align.types import Prompts, Record, pad_left, prompt_text


@dataclass(frozen=True)
class Chat:
    """Knows how a policy reads what it is asked.

    Attributes:
        tokenizer: A tokenizer of transformers, with a chat template or without.
        system: The system message of chats that have none of their own; None leaves it to the template.
        day: The day for a template that writes one; None is today.
    """

    tokenizer: Any
    system: str | None = None
    day: date | None = None

    @property
    def has_template(self) -> bool:
        """Tell whether prompts are chats; else they are read as they are."""
        return self.tokenizer.chat_template is not None

    @property
    def writes_the_day(self) -> bool:
        """Tell whether the template asks what day it is."""
        return "strftime_now" in str(self.tokenizer.chat_template)


def render(chat: Chat, record: Record) -> str:
    """Return the text that is tokenised: a chat through the template, a plain prompt as a chat of one message.

    A chat that ends with a text of the assistant's is left open there, to be continued. A tokenizer without a chat
    template gets a plain prompt as it is.

    Raises:
        ValueError: There is a chat or a system message, and the tokenizer has no chat template; or the template refuses
            or leaves out a part of the conversation.
    """
    if not chat.has_template:
        if "messages" in record or chat.system is not None or tools_of(record):
            raise ValueError(
                "the model has no chat template, but there are `messages`, `tools` or a system message: use an "
                "instruction-tuned model, or a `prompt` column alone and model.policy.system null"
            )
        return str(record["prompt"])
    with _naming(record):
        conversation = conversation_of(record)
        if chat.system is None or conversation.messages[0]["role"] == "system":
            return rendered(chat.tokenizer, conversation, chat.day)
    try:
        return rendered(chat.tokenizer, conversation.with_system(chat.system), chat.day)
    except ValueError as error:
        with _naming(record):  # without the system message, it is the row's own fault
            rendered(chat.tokenizer, conversation, chat.day)
        raise ValueError(
            f"model.policy.system: {error}; the model takes no system message: set model.policy.system to null in the "
            "config, and say in the prompts what it said"
        ) from error


def shown(record: Record) -> str:
    """Return what messages call a row: the beginning of what it asks."""
    text = repr(prompt_text(record))
    return f"the row that asks {text if len(text) <= 60 else text[:56] + '...'}"


def encode(chat: Chat, records: list[Record]) -> Prompts:
    """Return records as left-padded prompts."""
    rows = tokens(chat, [render(chat, record) for record in records])
    ids, mask = pad_left(rows)
    return Prompts(ids, mask, torch.tensor([content_id(record) for record in records]), records)


def tokens(chat: Chat, texts: list[str]) -> list[list[int]]:
    """Return rendered texts as tokens that an answer can follow.

    A template writes its own special tokens, so none are added to a rendered chat (no doubled BOS). A plain prompt gets
    those that the tokenizer puts before a text, and never those that it closes a text with.
    """
    found: list[list[int]] = chat.tokenizer(texts, add_special_tokens=not chat.has_template)["input_ids"]
    if chat.has_template:
        return found
    bare = chat.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [_open(row, own, chat.tokenizer.eos_token_id) for row, own in zip(found, bare, strict=True)]


def content_id(record: Record) -> int:
    """Return a 63-bit hash of what is asked, stable across files, orders and machines."""
    content = record.get("messages") or prompt_text(record)
    content = [content, tools] if (tools := tools_of(record)) else content
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def question_id(record: Record) -> int:
    """Return the :func:`content_id` of what is asked, whether a single text of the user's is a prompt or a message."""
    if not record.get("messages"):
        return content_id(record)
    others = {name: value for name, value in record.items() if name != "messages"}
    return content_id(others | as_asked(record["messages"]))


@contextmanager
def _naming(record: Record) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}: {shown(record)}") from error


def _open(row: list[int], bare: list[int], eos: int | None) -> list[int]:
    """Return a tokenised text without what closes it; ``bare`` is the text without the tokenizer's added tokens."""
    starts = (start for start in range(len(row) - len(bare) + 1) if row[start : start + len(bare)] == bare)
    start = next(starts, None)
    kept = row if start is None else row[: start + len(bare)]
    while len(kept) > 1 and kept[-1] == eos:
        kept = kept[:-1]
    return kept
