"""A model whose next token depends on all that came before, through a running hash; batching cannot change it."""

import torch

from lit_align.sampling.generate import generate
from lit_align.types import Prompts, Responses, pad_left

STATES, VOCABULARY = 97, 7
EOS = torch.tensor([2, 5])


class Chain:
    """A `NextToken` with a table of laws, one for each state."""

    def __init__(self, table=None, admits=True):
        generator = torch.Generator().manual_seed(5)
        self.table = torch.randn(STATES, VOCABULARY, generator=generator) if table is None else table
        self.rows_seen = []
        self.admits = admits
        self.state = torch.zeros(0, dtype=torch.long)

    def after(self, state, token):
        return (state * 31 + token + 1) % len(self.table)

    def prefill(self, ids, mask, group_size):
        state = torch.zeros(len(ids), dtype=torch.long)
        for column in range(ids.shape[1]):
            state = torch.where(mask[:, column], self.after(state, ids[:, column]), state)
        self.state = torch.cat([self.state, state.repeat_interleave(group_size)])
        return self.table[state]

    def step(self, tokens):
        self.rows_seen.append(len(tokens))
        self.state = self.after(self.state, tokens)
        return self.table[self.state]

    def keep(self, rows):
        self.state = self.state[rows]


class ChainPolicy:
    """The part of a policy that a sampler needs; remembers how many prompts were under way at once, and how wide."""

    def __init__(self):
        self.batches = []

    def sample(self, prompts, uniforms, decoding, source, at_once=0):
        self.batches.append((min(len(prompts), at_once), prompts.ids.shape[1]))
        ids, logps, lengths = generate(Chain(), prompts.ids, prompts.mask, uniforms, decoding, EOS, at_once=at_once)
        mask = torch.arange(ids.shape[-1]) < lengths[..., None]
        last = ids.gather(-1, (lengths - 1)[..., None]).squeeze(-1)
        return Responses(prompts, ids, mask, ~torch.isin(last, EOS), logps, source=(source,))


def prompts(count=9) -> Prompts:
    rows = [[(3 * i + j) % VOCABULARY for j in range(1 + (i * 5) % 4)] for i in range(count)]
    ids, mask = pad_left(rows)
    return Prompts(ids, mask, torch.arange(100, 100 + count), [{"prompt": str(i)} for i in range(count)])
