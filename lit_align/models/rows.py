"""Which prompt each row of a batch answers, and how many tokens it has of its own."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Rows:
    """The rows of a batch of groups; they may be of unequal length, and a group may have lost some.

    What decides shapes is kept on the host, so that a step never waits for the device.

    Args:
        mask: True on the prompts' tokens.
        group_size: Rows of each prompt at first.

    Attributes:
        longest: Most tokens of its own that a row has.
        column: Tokens of its own that each row has, which is where its next one goes; None where all have the same.
        hidden: True on places of the longest row that a row does not have, the next token counted; None where there
            are none.
        bias: 0 on the prompts' tokens, -inf on their padding.
    """

    def __init__(self, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        self.mask = mask
        self.prompt = torch.arange(len(mask)).repeat_interleave(group_size)
        self.filled = torch.zeros(len(self.prompt), dtype=torch.long)
        self.column: Tensor | None = None
        self.hidden: Tensor | None = None
        self._place: Tensor | None = None
        self._arrange()

    def __len__(self) -> int:
        return len(self.prompt)

    def add(self, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        """Rows of more prompts, after those that are there."""
        width = max(mask.shape[1], self.mask.shape[1])
        self.prompt = torch.cat([self.prompt, len(self.mask) + torch.arange(len(mask)).repeat_interleave(group_size)])
        self.mask = torch.cat([F.pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)])
        self.filled = torch.cat([self.filled, self.filled.new_zeros(len(mask) * group_size)])
        self._arrange()

    def keep(self, rows: Int[Tensor, " kept"]) -> Int[Tensor, " prompts"]:
        """Go on with these rows; returns the prompts that still have one."""
        prompts: Tensor
        prompts, self.prompt = self.prompt[rows].unique(return_inverse=True)
        self.filled = self.filled[rows]
        self.mask = self.mask[prompts.to(self.mask.device)]
        self._arrange()
        return prompts

    def advance(self) -> None:
        """Every row has one token more."""
        self.filled = self.filled + 1
        self.longest += 1
        if self.column is not None:
            self.column = self.column + 1
            self.hidden = self._hidden(self.column)

    def write(self, buffer: Float[Tensor, "rows heads own width"], states: Float[Tensor, "rows heads width"]) -> None:
        """Put each row's next token where it belongs."""
        if self.column is None:
            buffer[:, :, self.longest] = states
        else:
            buffer[torch.arange(len(buffer), device=buffer.device), :, self.column] = states

    def by_prompt(self, rows: Float[Tensor, "rows ..."]) -> Float[Tensor, "batch width ..."]:
        """The rows of each prompt side by side, empty places 0."""
        shape = (len(self.mask), self._width, *rows.shape[1:])
        if self._place is None:
            return rows.view(shape)
        return rows.new_zeros(shape).flatten(0, 1).index_copy(0, self._place, rows).view(shape)

    def by_row(self, groups: Float[Tensor, "batch width ..."]) -> Float[Tensor, "rows ..."]:
        """The way back."""
        rows = groups.flatten(0, 1)
        return rows if self._place is None else rows[self._place]

    def _arrange(self) -> None:
        device = self.mask.device
        places, self._width = _side_by_side(self.prompt, len(self.mask))
        regular = torch.equal(places, torch.arange(len(self.mask) * self._width))
        self._place = None if regular else places.to(device)
        self.bias = torch.zeros(self.mask.shape, device=device).masked_fill(~self.mask, -torch.inf)[:, None, None]
        self.longest = int(self.filled.max())
        even = bool((self.filled == self.longest).all())
        self.column = None if even else self.filled.to(device)
        self.hidden = None if self.column is None else self._hidden(self.column)

    def _hidden(self, column: Int[Tensor, " rows"]) -> Bool[Tensor, "rows 1 1 own"]:
        return (torch.arange(self.longest + 1, device=column.device) > column[:, None])[:, None, None]


def _side_by_side(prompt: Int[Tensor, " rows"], prompts: int) -> tuple[Int[Tensor, " rows"], int]:
    """Place of each row in a table with a line for each prompt, and the table's width."""
    counts = torch.bincount(prompt, minlength=prompts)
    order = prompt.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(prompt)) - (counts.cumsum(0) - counts)[prompt[order]]
    width = int(counts.max())
    return prompt * width + rank, width
