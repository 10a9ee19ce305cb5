"""Where an answer ends is decided here alone, before any weights load.

Sampling stops at every token that may end an answer: those of the generation config, the tokenizer's end of sequence,
and what the chat template writes after an assistant's turn, a special token or not. Written answers end with the last.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from lit_align.data.messages import Conversation, rendered
from lit_align.data.templates import Chat

_ASKED, _ANSWER, _NEXT = "qzaskedwort", "qzanswerwort", "qznextwort"


@dataclass(frozen=True)
class Turn:
    """Holds what stands around an answer.

    Attributes:
        opening: What the template writes after the last message, for an answer to follow.
        before: What it writes between the opening and the content of an answer, such as a space or empty thoughts.
        after: What it writes between the content and the end, such as a space.
        end: The token that then ends the turn; None where the template writes none.
        trims: Whether it takes away white space before the content of an answer, and after it.
    """

    opening: str = ""
    before: str = ""
    after: str = ""
    end: int | None = None
    trims: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Ends:
    """Holds the tokens that end an answer.

    Attributes:
        ids: Sampling stops at any of them; in ascending order.
        written: A written answer ends with this one.
    """

    ids: tuple[int, ...]
    written: int

    def told(self, tokenizer: Any) -> str:
        """Return one line for the log of a run that names the ends."""
        names = [f"{tokenizer.convert_ids_to_tokens(token)} ({token})" for token in self.ids]
        last = tokenizer.convert_ids_to_tokens(self.written)
        return f"answers end at {', '.join(names)}; written ones end with {last}"


def ends_of(chat: Chat, turn: Turn, configured: Collection[int], vocabulary: int | None) -> Ends:
    """Return the tokens that end an answer.

    Args:
        chat: The tokenizer, with its template.
        turn: What the template writes around an answer.
        configured: The end tokens of the model's generation config.
        vocabulary: How many tokens the model can draw; None where its config does not say.

    Raises:
        ValueError: There are none, the model cannot draw the one that written answers end with, or the template writes
            one of them before an answer.
    """
    tokenizer = chat.tokenizer
    eos = tokenizer.eos_token_id
    own = [token for token in (turn.end, eos) if token is not None]
    known = sorted({*configured, *own})
    drawn = tuple(token for token in known if token >= 0 and (vocabulary is None or token < vocabulary))
    if not drawn:
        raise ValueError(
            "no token ends an answer: neither the generation config (eos_token_id), nor the tokenizer (eos_token), nor "
            "the chat template has one that the model can draw; give the tokenizer an eos_token"
        )
    written = own[0] if own else drawn[0]
    if written not in drawn:
        raise ValueError(
            f"an answer ends with {tokenizer.convert_ids_to_tokens(written)} ({written}), which the model cannot draw: "
            f"it has {vocabulary} tokens; give it the tokenizer that it was trained with"
        )
    early = set(drawn) & set(tokenizer(turn.before, add_special_tokens=False)["input_ids"])
    if early:
        raise ValueError(
            f"{tokenizer.convert_ids_to_tokens(min(early))} ends an answer by the generation config or the tokenizer, "
            "and the chat template writes it before an answer: mend eos_token_id, eos_token or the chat template"
        )
    return Ends(drawn, written)


def turn_of(chat: Chat) -> Turn:
    """Return what the chat template writes around the content of an answer; nothing where there is no template.

    Raises:
        ValueError: The template ends a turn with a text that is no single token.
    """
    if not chat.has_template:
        return Turn()
    try:
        finished = _rendered(chat, [_ASKED], answering=False)
        prompt = _rendered(chat, [_ASKED])
        whole = _rendered(chat, [_ASKED, f"\t{_ANSWER}\t"], answering=False)
    except ValueError:  # a template that shows no finished answer marks no end
        return Turn()
    opening = _opening(chat.tokenizer, prompt, finished)
    head, _, tail = whole.rpartition(_ANSWER)
    trims = not head.endswith("\t"), not tail.startswith("\t")
    head, tail = head.removesuffix("\t"), tail.removeprefix("\t")
    before = head.removeprefix(prompt) if head.startswith(prompt) else ""
    if not before and prompt.rstrip().endswith(tail.strip()):
        tail = ""  # the next answer begins already
    after, end = _first_token(chat.tokenizer, tail) if tail.strip() else _between_turns(chat, prompt)
    return Turn(opening, before, after, end, trims)


def _opening(tokenizer: Any, prompt: str, finished: str) -> str:
    """Return what a prompt that is to be answered has after the place where it parts from one that is not."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, finished, strict=False))
    parts = sum(1 for _ in alike)
    for token in tokenizer.added_tokens_decoder.values():  # both may go on with a token, and these begin alike
        begins = prompt.rfind(token.content, 0, parts + len(token.content)) if token.content else -1
        if begins >= 0 and begins < parts < begins + len(token.content):
            return prompt[begins:]
    return prompt[parts:]


def _between_turns(chat: Chat, prompt: str) -> tuple[str, int | None]:
    """Find what ends a turn where another follows, for a template that does not end the last one."""
    try:
        whole = _rendered(chat, [_ASKED, _ANSWER, _NEXT], answering=False)
    except ValueError:
        return "", None
    between = whole.rpartition(_ANSWER)[2].partition(_NEXT)[0]
    user_begins = prompt.partition(_ASKED)[0].rstrip().endswith(between.strip())
    return ("", None) if user_begins else _first_added_token(chat.tokenizer, between)


def _first_token(tokenizer: Any, text: str) -> tuple[str, int | None]:
    """Return what stands before the first token that is more than a piece of words, and the token."""
    before, end = _first_added_token(tokenizer, text)
    if end is not None:
        return before, end
    ids = tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"the chat template ends an answer with {text.strip()!r}, which is no single token of the tokenizer, so "
            "nothing tells sampling to stop there: add it to the tokenizer, or let the template write the eos_token"
        )
    return text[: text.index(text.strip())], int(ids[0])


def _first_added_token(tokenizer: Any, text: str) -> tuple[str, int | None]:
    added = [
        (text.find(token.content), -len(token.content), id) for id, token in tokenizer.added_tokens_decoder.items()
    ]
    there = [place for place in added if place[0] >= 0 and place[1]]
    if not there:
        return "", None
    start, _, end = min(there)
    return text[:start], end


def _rendered(chat: Chat, texts: list[str], *, answering: bool = True) -> str:
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return rendered(chat.tokenizer, Conversation(messages), chat.day, answering=answering)
