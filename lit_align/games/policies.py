"""Policies whose responses can be counted let the modules that align a language model train them exactly.

A policy here is a walk on a tree: at every node a table has the log-probs of the next token, and a token leads to a
child or ends the response. A bandit is the tree with one node, in which every token ends.
"""

from abc import abstractmethod
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

from lit_align.data.templates import content_id
from lit_align.games.game import Game
from lit_align.models.policy import Policy
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.generate import generate
from lit_align.types import Prompts, Record, Responses, masked_sum

_END = -1  # no child


class EnumerablePolicy(Policy):
    """Answers from a finite set of responses, in float64. Response y of the game is row y of ``tokens``.

    Args:
        game: Its contexts, and the reference.
        tokens: Tokens of every response, right-padded.
        mask: True on tokens.
        children: Node that a token leads to, -1 where the response ends with it.
        eos: Tokens that end a response.
    """

    dtype = torch.float64
    context_length = 1_000_000

    def __init__(
        self,
        game: Game,
        tokens: Int[Tensor, "responses length"],
        mask: Bool[Tensor, "responses length"],
        children: Int[Tensor, "nodes vocab"],
        eos: Int[Tensor, " ends"],
    ) -> None:
        super().__init__()
        if len(tokens) != game.responses:
            raise ValueError(f"{type(self).__name__} has {len(tokens)} responses, the game {game.responses}")
        self.game = game
        self.tokens, self.mask, self.children_of, self.eos = tokens, mask, children, eos
        leaf = torch.full_like(children, -1)
        nodes = self._nodes(tokens)
        last = (mask.sum(-1) - 1)[:, None]
        leaf[nodes.gather(-1, last), tokens.gather(-1, last)] = torch.arange(len(tokens))[:, None]
        self._leaf = leaf

    @abstractmethod
    def table(self, source: str) -> Float[Tensor, "contexts nodes vocab"]:
        """Return log-probs of the next token at every node, under ``policy`` or ``reference``, in nats."""

    def distribution(self, source: str = "policy") -> Float[Tensor, "contexts responses"]:
        """Return the probability of every response; each row sums to one."""
        return masked_sum(self._token_logps(self.table(source)), self.mask.expand(self.game.contexts, -1, -1)).exp()

    @override
    def encode(self, records: list[Record]) -> Prompts:
        """Return prompts of one token, the context's number."""
        ids = torch.tensor([[record["context"]] for record in records])
        hashes = torch.tensor([content_id(record) for record in records])
        return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), hashes, records)

    @override
    def load(self, device: torch.device | str = "cpu") -> None:
        """Do nothing: there are no weights, and float64 is at home on the CPU."""

    @torch.no_grad()
    @override
    def sample(
        self, prompts: Prompts, uniforms: Float[Tensor, "batch group length"], decoding: Decoding, source: str
    ) -> Responses:
        length = self.tokens.shape[1]
        if uniforms.shape[-1] < length:
            raise ValueError(
                f"responses have up to {length} tokens, more than model.sampler.max_new_tokens ({uniforms.shape[-1]})"
            )
        walk = _Walk(self._law(source, decoding), self.children_of)
        short = uniforms[..., :length]
        ids, logps, lengths = generate(walk, prompts.ids, prompts.mask, short, decoding, self.eos)
        mask = torch.arange(ids.shape[-1]) < lengths[..., None]
        last = ids.gather(-1, (lengths - 1)[..., None]).squeeze(-1)
        return Responses(prompts, ids, mask, ~torch.isin(last, self.eos), logps)

    @torch.no_grad()
    def enumerate(self, prompts: Prompts, decoding: Decoding, source: str) -> Responses:
        """Return every response to every prompt, in the game's order."""
        size = (len(prompts), *self.tokens.shape)
        last = self.tokens.gather(-1, (self.mask.sum(-1) - 1)[:, None]).squeeze(-1)
        return Responses(
            prompts=prompts,
            ids=self.tokens.expand(size),
            mask=self.mask.expand(size),
            truncated=(~torch.isin(last, self.eos)).expand(size[:2]),
            sample_logps=self._token_logps(self._law(source, decoding))[prompts.ids[:, -1]],
        )

    @override
    def logps(self, responses: Responses, source: str = "policy") -> Float[Tensor, "batch group length"]:
        """Return log-probs in float64."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and source == "policy"):
            table = self._checked(source)
        context = responses.prompts.ids[:, -1][:, None, None]
        values = table[context, self._nodes(responses.ids), responses.ids]
        return torch.where(responses.mask, values, torch.zeros_like(values))

    def indices(self, responses: Responses) -> Int[Tensor, "batch group"]:
        """Return the number that each response has in the game."""
        last = (responses.lengths - 1)[..., None]
        nodes = self._nodes(responses.ids).gather(-1, last)
        return self._leaf[nodes, responses.ids.gather(-1, last)].squeeze(-1)

    @override
    def text(self, responses: Responses) -> list[list[str]]:
        return [[str(index) for index in group] for group in self.indices(responses).tolist()]

    @override
    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        laws = {source: self.distribution(source).detach().contiguous() for source in ("policy", "reference")}
        save_file(laws, folder / "policy.safetensors")

    def _law(self, source: str, decoding: Decoding) -> Float[Tensor, "contexts nodes vocab"]:
        if source != "mixture":
            return self._checked(source)
        weight = decoding.mixture
        return ((1 - weight) * self.table("policy") + weight * self.table("reference")).log_softmax(-1)

    def _checked(self, source: str) -> Float[Tensor, "contexts nodes vocab"]:
        if source not in ("policy", "reference"):
            raise ValueError(f"unknown source {source!r}: choose policy, reference or (to sample) mixture")
        return self.table(source)

    def _token_logps(self, table: Tensor) -> Float[Tensor, "contexts responses length"]:
        return table[:, self._nodes(self.tokens), self.tokens].masked_fill(~self.mask, 0.0)

    def _nodes(self, ids: Int[Tensor, "*any length"]) -> Int[Tensor, "*any length"]:
        """Return the node each token is drawn at; past the end, any."""
        nodes = [torch.zeros_like(ids[..., 0])]
        for position in range(ids.shape[-1] - 1):
            nodes.append(self.children_of[nodes[-1], ids[..., position]].clamp(min=0))
        return torch.stack(nodes, dim=-1)


class TabularPolicy(EnumerablePolicy):
    """Has one logit for every response to every context; a response is one token, its number.

    Args:
        game: Its contexts, responses and reference.
    """

    def __init__(self, game: Game) -> None:
        super().__init__(game, *_bandit(game))
        self.logits = nn.Parameter(game.reference.log())

    @override
    def table(self, source: str) -> Float[Tensor, "contexts 1 vocab"]:
        logits = self.logits if source == "policy" else self.game.reference.log()
        return logits.log_softmax(-1)[:, None]


class LinearPolicy(EnumerablePolicy):
    r"""Is softmax-linear in the game's features: :math:`\pi(y|x) \propto \pi_{ref}(y|x) \exp(\theta^\top \phi(x, y))`.

    Contexts share theta; each copy of the game has its own.

    Args:
        game: A game with features.
    """

    def __init__(self, game: Game) -> None:
        if game.features is None:
            raise ValueError("LinearPolicy needs a game with features: set model.policy.game.features to their number")
        super().__init__(game, *_bandit(game))
        self.theta = nn.Parameter(torch.zeros(game.copies, game.features.shape[-1], dtype=torch.float64))

    @override
    def table(self, source: str) -> Float[Tensor, "contexts 1 vocab"]:
        logits = self.game.reference.log()
        if source == "policy":
            assert self.game.features is not None
            logits = logits + (self.game.features @ self.theta[self.game.copy_of][..., None]).squeeze(-1)
        return logits.log_softmax(-1)[:, None]


class _Walk:
    """Walks down a table, as a `NextToken`."""

    admits = False  # the prompts of a game are all read at once

    def __init__(self, table: Tensor, children: Tensor) -> None:
        self.table, self.children = table, children

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        del mask
        self.context = ids[:, -1].repeat_interleave(group_size)
        self.node = torch.zeros_like(self.context)
        return self.table[ids[:, -1], 0]

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Go down one token; a row that has ended is drawn on, and not read."""
        self.node = self.children[self.node, tokens].clamp(min=0)
        return self.table[self.context, self.node]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.context, self.node = self.context[rows], self.node[rows]


def _bandit(game: Game) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tokens, mask, children and ends of a tree with one node."""
    tokens = torch.arange(game.responses)[:, None]
    return tokens, torch.ones_like(tokens, dtype=torch.bool), torch.full_like(tokens.T, _END), tokens.squeeze(-1)
