"""A tree policy answers with short sequences that can be counted: masks and sums over tokens have exact answers."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from lit_align.games.game import Game
from lit_align.games.policies import EnumerablePolicy


class TreePolicy(EnumerablePolicy):
    """Answers with a sequence of up to ``length`` tokens, ended by an end-of-sequence token or cut at that length.

    Three symbols and length 3 make 40 responses: the end at once, 3 of one symbol and the end, 9 of two, 27 cut. Tokens
    0 to ``symbols`` - 1 are the symbols, the last is the end. There is one logit for every context, node and token.

    Args:
        game: Its contexts and reference; it has as many responses as there are sequences.
        symbols: Tokens beside the end of sequence.
        length: Longest response, end of sequence included.
    """

    def __init__(self, game: Game, symbols: int = 3, length: int = 3) -> None:
        tokens, mask, children = sequences(symbols, length)
        super().__init__(game, tokens, mask, children, torch.tensor([symbols]))
        conditionals = self._conditionals(game.reference)
        self.logits = nn.Parameter(conditionals.clone())
        self.register_buffer("initial", conditionals, persistent=False)

    @override
    def table(self, source: str) -> Float[Tensor, "contexts nodes vocab"]:
        logits: Tensor = self.logits if source == "policy" else self.initial  # type: ignore[assignment]
        return logits.log_softmax(-1)

    def _conditionals(self, law: Float[Tensor, "contexts responses"]) -> Float[Tensor, "contexts nodes vocab"]:
        """Return the log-probs of tokens that make a law over responses: ratios of the mass below them."""
        nodes = self._nodes(self.tokens)
        mass = law.new_zeros(len(law), self.children_of.numel())
        vocabulary = self.children_of.shape[1]
        for position in range(self.tokens.shape[1]):
            there = self.mask[:, position]
            edge = nodes[there, position] * vocabulary + self.tokens[there, position]
            mass.index_add_(1, edge, law[:, there])
        mass = mass.view(len(law), -1, vocabulary)
        return (mass / mass.sum(-1, keepdim=True)).log()


def sequences(
    symbols: int, length: int
) -> tuple[Int[Tensor, "responses length"], Bool[Tensor, "responses length"], Int[Tensor, "nodes vocab"]]:
    """Return all sequences, shortest first, and the tree they are the leaves of.

    Returns:
        Tokens (the end of sequence is token ``symbols``), mask, and the node each token leads to, -1 at a leaf.
    """
    end, prefixes = symbols, [tuple[int, ...]()]
    rows: list[tuple[int, ...]] = []
    nodes: dict[tuple[int, ...], int] = {}
    for depth in range(length):
        nodes |= {prefix: len(nodes) + i for i, prefix in enumerate(prefixes)}
        rows += [(*prefix, end) for prefix in prefixes]
        prefixes = [(*prefix, symbol) for prefix in prefixes for symbol in range(symbols)]
        if depth == length - 1:
            rows += prefixes
    children = torch.tensor([[nodes.get((*prefix, token), -1) for token in range(symbols + 1)] for prefix in nodes])
    tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return tokens, mask, children
