"""Written answers become the tokens that the policy would draw for the same text."""

from dataclasses import dataclass
from typing import Any

import torch

from lit_align.data.templates import Chat, render, shown, tokens
from lit_align.data.turns import Ends, Turn
from lit_align.types import Prompts, Record, Responses, begun_answer

_ANCHORS = ("\n", ":", "]", "a")  # texts that another may follow without a space


@dataclass(frozen=True)
class Writer:
    """Puts written answers where the policy would put its own.

    Attributes:
        chat: How prompts are read.
        turn: What the template writes around an answer.
        ends: What ends one.
    """

    chat: Chat
    turn: Turn
    ends: Ends

    def responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Return written answers as right-padded tokens, each with the token that ends a turn as its last.

        Args:
            prompts: What they answer.
            texts: K answers to each prompt.
            max_tokens: Most tokens of an answer, the end included; a longer one is cut and marked truncated. Answers to
                one prompt that the cut would make the same are left longer, for the caller to refuse.

        Raises:
            ValueError: An answer goes on after its end, or holds another turn.
        """
        rows = [self._rows(prompts, number, answers) for number, answers in enumerate(texts)]
        cut = [[row[:max_tokens] for row in group] if _differ_within(group, max_tokens) else group for group in rows]
        lengths = torch.tensor([[len(row) for row in group] for group in cut])
        width = int(lengths.max())
        ids = torch.tensor([[row + [0] * (width - len(row)) for row in group] for group in cut])
        mask = torch.arange(width) < lengths[..., None]
        return Responses(
            prompts,
            ids,
            mask,
            truncated=torch.tensor([[len(row) > max_tokens for row in group] for group in rows]),
            sample_logps=torch.full(ids.shape, torch.nan).masked_fill(~mask, 0.0),
            source=("data",) * len(texts[0]),
        )

    def _rows(self, prompts: Prompts, number: int, answers: list[str]) -> list[list[int]]:
        """Return the tokens of each answer to a prompt, read with it where that leaves its own tokens."""
        record = prompts.records[number]
        prompt, asked = render(self.chat, record), prompts.ids[number][prompts.mask[number]].tolist()
        written = [self._in_turn(answer, prompt, record) for answer in answers]
        rows = []
        for answer, row in zip(written, tokens(self.chat, [prompt + answer for answer in written]), strict=True):
            own = row[len(asked) :] if row[: len(asked)] == asked else _apart(self.chat.tokenizer, answer)
            self._check_one_turn(own, record)
            rows.append([*own, self.ends.written])
        return rows

    def _in_turn(self, answer: str, prompt: str, record: Record) -> str:
        """Put an answer between what the template writes around it, nothing of it twice."""
        tokenizer, turn = self.chat.tokenizer, self.turn
        if not self.chat.has_template:
            return self._without_end(answer)
        text = self._without_end(_without_opening(tokenizer, answer, prompt, turn.opening))
        text = text.removesuffix(turn.after) if text != answer else text
        text = text.lstrip() if turn.trims[0] else text
        text = text.rstrip() if turn.trims[1] else text
        opened = any(token in text for token in _added_tokens(tokenizer, turn.before))
        return ("" if opened or begun_answer(record) else turn.before) + text + turn.after

    def _without_end(self, answer: str) -> str:
        """Take away the ends that an answer brings."""
        ends = [self.chat.tokenizer.convert_ids_to_tokens(token) for token in self.ends.ids]
        bare = answer.rstrip()
        for end in ends:
            if bare.endswith(end):
                return self._without_end(bare.removesuffix(end))
        return answer

    def _check_one_turn(self, row: list[int], record: Record) -> None:
        tokenizer = self.chat.tokenizer
        added, unknown = tokenizer.added_tokens_decoder, tokenizer.unk_token_id
        opening = tokenizer(self.turn.opening, add_special_tokens=False)["input_ids"]
        turns = {token for token in opening if token in added and added[token].special and token != unknown}
        odd = [token for token in row if token in turns or token in self.ends.ids]
        if odd:
            raise ValueError(
                f"an answer holds {tokenizer.convert_ids_to_tokens(odd[0])} inside, where a turn ends or "
                f"begins: give the text of one answer alone; {shown(record)}"
            )


def _differ_within(group: list[list[int]], max_tokens: int) -> bool:
    """Tell whether no two answers that differ are the same after the cut."""
    return len({tuple(row[:max_tokens]) for row in group}) == len({tuple(row) for row in group})


def _without_opening(tokenizer: Any, answer: str, prompt: str, opening: str) -> str:
    """Take away the prompt, or the part of it that opens an answer, which an answer begins with."""
    begins = [opening[opening.index(token) :] for token in _added_tokens(tokenizer, opening)]
    for text in (
        prompt,
        prompt.removeprefix(tokenizer.bos_token or ""),
        opening,
        *sorted(begins, key=len, reverse=True),
    ):
        if text.strip() and answer.startswith(text):
            return answer.removeprefix(text)
    return answer


def _added_tokens(tokenizer: Any, text: str) -> list[str]:
    return [
        token.content for token in tokenizer.added_tokens_decoder.values() if token.content and token.content in text
    ]


def _apart(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that follows another, without the mark of a space that no one has written."""
    for anchor in _ANCHORS:
        alone, both = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (anchor, anchor + text))
        if alone and tokenizer.unk_token_id not in alone and both[: len(alone)] == alone:
            return list(both[len(alone) :])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
