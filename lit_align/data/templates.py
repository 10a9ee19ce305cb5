"""From a record to tokens: the chat template is applied once, here, and nowhere else."""

import hashlib
import json
from typing import Any

import torch

from lit_align.data.records import as_asked
from lit_align.types import Prompts, Record, Responses, pad_left, prompt_text


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


def encode_responses(tokenizer: Any, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
    """Written responses as right-padded tokens, each with the token that ends a turn as its last.

    Args:
        tokenizer: Of transformers.
        prompts: What they answer.
        texts: K responses to each prompt.
        max_tokens: Longest response, end included; a longer one is cut and marked truncated.
    """
    end, size = end_of_turn(tokenizer), len(texts[0])
    flat = tokenizer([text for group in texts for text in group], add_special_tokens=False)["input_ids"]
    rows = [[*ids, end] for ids in flat]
    lengths = torch.tensor([min(len(row), max_tokens) for row in rows]).view(-1, size)
    width = int(lengths.max())
    ids = torch.tensor([row[:width] + [0] * (width - len(row)) for row in rows]).view(-1, size, width)
    mask = torch.arange(width) < lengths[..., None]
    return Responses(
        prompts,
        torch.where(mask, ids, 0),
        mask,
        truncated=torch.tensor([len(row) > max_tokens for row in rows]).view(-1, size),
        sample_logps=torch.full(ids.shape, torch.nan).masked_fill(~mask, 0.0),
        source=("data",) * size,
    )


def end_of_turn(tokenizer: Any) -> int:
    """The special token that the chat template writes right after an assistant's turn, else the end of sequence.

    Raises:
        ValueError: There is neither.
    """
    if tokenizer.chat_template is not None:
        user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        before: str = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        whole: str = tokenizer.apply_chat_template([user, assistant], tokenize=False)
        after = whole.removeprefix(f"{before}b")
        ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after != whole else []
        added = tokenizer.added_tokens_decoder
        if ids and ids[0] in added and added[ids[0]].special:
            return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise ValueError("the model's tokenizer has no end-of-sequence token: a written response would never end")
    return int(tokenizer.eos_token_id)


def content_id(record: Record) -> int:
    """A 63-bit hash of what is asked, stable across files, orders and machines."""
    content = record.get("messages") or prompt_text(record)
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def question_id(record: Record) -> int:
    """Return the :func:`content_id` of what is asked, whether a single text of the user's is a prompt or a message."""
    messages = record.get("messages")
    return content_id(as_asked(messages)) if messages else content_id(record)
