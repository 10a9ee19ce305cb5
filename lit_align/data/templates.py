"""From a record to tokens: the chat template is applied once, here, and nowhere else."""

import hashlib
import json
from typing import Any

import torch

from lit_align.types import Prompts, Record, pad_left, prompt_text


def render(tokenizer: Any, record: Record, system: str | None = None) -> str:
    """The text that is tokenised: a chat through the template, a plain prompt as a chat of one message.

    A tokenizer without a chat template gets a plain prompt as it is.

    Args:
        tokenizer: Of transformers.
        record: With a ``prompt`` or ``messages``.
        system: System message of a chat that has none of its own; None leaves it to the template.

    Raises:
        ValueError: There is a chat or a system message, and the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        if "messages" in record or system is not None:
            raise ValueError(
                "the model has no chat template, but there are `messages` or a system message: use an instruction-"
                "tuned model, or a `prompt` column alone"
            )
        return str(record["prompt"])
    messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def encode(tokenizer: Any, records: list[Record], system: str | None = None) -> Prompts:
    """Records as left-padded prompts.

    A template writes its own special tokens, so none are added to a rendered chat (no doubled BOS); a plain prompt
    gets the tokenizer's own.
    """
    texts = [render(tokenizer, record, system) for record in records]
    rows = tokenizer(texts, add_special_tokens=tokenizer.chat_template is None)["input_ids"]
    ids, mask = pad_left(rows)
    return Prompts(ids, mask, torch.tensor([content_id(record) for record in records]), records)


def content_id(record: Record) -> int:
    """A 63-bit hash of what is asked, stable across files, orders and machines."""
    content = record.get("messages") or prompt_text(record)
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
