"""Groups are sampled token by token: a prompt is read once, and new rows take the place of finished ones.

The loop asks a `NextToken` for logits: a Hugging Face model with a key-value cache, or a mixture of two policies.
"""

from collections import deque
from itertools import count
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_align.sampling.decoding import Decoding, draw

_NO_WAIT = ("cpu",)  # the host sees how many rows are left on these devices without waiting for them
_LOOK = 8  # other devices are checked after so many steps


@runtime_checkable
class NextToken(Protocol):
    """Gives the next-token logits of a batch of sequences that grow one token at a time."""

    @property
    def admits(self) -> bool:
        """Return whether prompts may be read while other rows are being sampled."""

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        """Read prompts, and append ``group_size`` adjacent rows for each to the rows of the batch."""

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append one token to every row, and return the logits of the next."""

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows alone; there may be none."""


def generate(
    model: NextToken,
    ids: Int[Tensor, "batch prompt"],
    mask: Bool[Tensor, "batch prompt"],
    uniforms: Float[Tensor, "batch group length"],
    decoding: Decoding,
    eos: Int[Tensor, " ends"],
    *,
    at_once: int = 0,
    compact: float = 0.125,
    look_every: int | None = None,
) -> tuple[Int[Tensor, "batch group length"], Float[Tensor, "batch group length"], Int[Tensor, "batch group"]]:
    """Sample one response for every row of uniforms.

    Args:
        model: Gives the logits.
        ids: Prompt tokens, left-padded.
        mask: True on prompt tokens.
        uniforms: One number in [0, 1) a token; their last dimension is the longest response.
        decoding: The sampling law.
        eos: Token ids that end a response.
        at_once: Most prompts that are sampled at once, which bounds memory, not the result; 0 is all.
        compact: Share of the batch that has to be finished before its rows are replaced, which copies the cache; above
            1 they never are. It does not change the result.
        look_every: Steps between two checks for finished rows, >= 1; more keep a device busy while the host does not
            wait for it. None checks at every step on a CPU, less often elsewhere. It does not change the result.

    Returns:
        Token ids and their log-probs under the sampling law in nats, both 0 after the end, and lengths in tokens,
        end-of-sequence included.
    """
    drawn, waiting = _Drawn(uniforms), _Waiting(ids, mask, uniforms.shape[1], at_once, compact)
    look_every = look_every or (1 if ids.device.type in _NO_WAIT else _LOOK)
    rows = torch.arange(0, device=ids.device)  # each row of the model fills this row of the result
    alive = torch.ones_like(rows, dtype=torch.bool)
    logits = None
    due: deque[int] = deque()  # at these steps the rows that were admitted together reach the longest response
    for step in count(1):
        if admitted := waiting.fitting(len(rows), model.admits):
            more, first = waiting.read(model, admitted)
            logits = first if logits is None else torch.cat([logits, first])
            rows, alive = torch.cat([rows, more]), torch.cat([alive, torch.ones_like(more, dtype=torch.bool)])
            due.append(step + drawn.length - 1)
        assert logits is not None
        token, logp = draw(decoding.scores(logits), drawn.next_uniforms(rows))
        drawn.add(rows, alive, token, logp)
        alive = alive & ~torch.isin(token, eos) & (drawn.lengths[rows] < drawn.length)
        ended = step == due[0]
        if ended:
            due.popleft()
        logits = None
        if ended or step % look_every == 0:
            live = int(alive.sum())
            if live == 0 and not waiting:
                break
            # No row may go on past its last token: a model may have no position for it.
            if live <= (1 - compact) * len(rows) or live == 0 or (ended and live < len(rows)):
                kept = alive.nonzero().squeeze(-1)
                model.keep(kept)
                rows, token, alive = rows[kept], token[kept], alive[kept]
        if len(rows):
            logits = model.step(token)
    return drawn.table()


class _Waiting:
    """Holds the prompts that have not been read."""

    def __init__(self, ids: Tensor, mask: Tensor, group: int, at_once: int, compact: float) -> None:
        self.ids, self.mask, self.group = ids, mask, group
        self.most = min(at_once or len(ids), len(ids)) * group  # at most so many rows are sampled at once
        self.least = compact * self.most  # prompts are read when so many places are free
        self.begun = 0

    def __bool__(self) -> bool:
        return self.begun < len(self.ids)

    def fitting(self, rows: int, admits: bool) -> int:
        """Return how many prompts may be read beside so many rows."""
        free = self.most - rows
        if not self or (rows and (not admits or free < self.least)):
            return 0
        return min(free // self.group, len(self.ids) - self.begun)

    def read(self, model: NextToken, prompts: int) -> tuple[Int[Tensor, " rows"], Float[Tensor, "rows vocab"]]:
        """Read the next prompts; return their rows and the logits of the first tokens."""
        some = slice(self.begun, self.begun + prompts)
        self.begun += prompts
        ids, mask = self.ids[some], self.mask[some]
        start = int(mask.any(0).long().argmax())
        first = model.prefill(ids[:, start:], mask[:, start:], self.group).repeat_interleave(self.group, dim=0)
        rows = torch.arange(some.start * self.group, some.stop * self.group, device=ids.device)
        return rows, first


class _Drawn:
    """Collects the tokens that have been sampled, as rows come and go."""

    def __init__(self, uniforms: Float[Tensor, "batch group length"]) -> None:
        self.shape, self.length = uniforms.shape, uniforms.shape[-1]
        self.uniforms = uniforms.flatten(0, 1)
        self.tokens = torch.zeros_like(self.uniforms, dtype=torch.long)
        self.logps = torch.zeros_like(self.uniforms, dtype=torch.float32)
        self.lengths = torch.zeros_like(self.tokens[:, 0])

    def next_uniforms(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        # A row that has ended gets the same number again: its token is sampled, and not kept.
        return self.uniforms[rows, self._position(rows)]

    def add(self, rows: Tensor, alive: Tensor, token: Tensor, logp: Tensor) -> None:
        at = rows, self._position(rows)
        self.tokens[at] = torch.where(alive, token, self.tokens[at])
        self.logps[at] = torch.where(alive, logp, self.logps[at])
        self.lengths[rows] += alive

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.tokens.view(self.shape), self.logps.view(self.shape), self.lengths.view(self.shape[:2])

    def _position(self, rows: Tensor) -> Tensor:
        return self.lengths[rows].clamp(max=self.length - 1)
