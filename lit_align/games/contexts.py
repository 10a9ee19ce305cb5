"""The contexts of a game are its prompts."""

from collections.abc import Iterable, Iterator

from typing_extensions import override

from lit_align.data.base import IterationData
from lit_align.data.deal import ShuffledDeck
from lit_align.games.game import Game
from lit_align.types import Prompts, Record


class Contexts(IterationData):
    """Makes every context of a game a prompt, to train on and to be measured on.

    Args:
        game: The game.
        prompts_per_iteration: Contexts answered in an iteration; all of them by default.
        batch_size: Contexts in one forward and backward pass; all of an iteration by default.
        passes: Times each iteration's rollouts are gone through.
    """

    def __init__(
        self, game: Game, prompts_per_iteration: int | None = None, batch_size: int | None = None, passes: int = 1
    ) -> None:
        prompts = prompts_per_iteration or game.contexts
        super().__init__(prompts_per_iteration=prompts, batch_size=batch_size or prompts, passes=passes)
        self.game = game
        self.deck = ShuffledDeck(game.records, _as_they_are)

    @override
    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        assert self.encode is not None
        return self.deck.prompts(self.encode, iteration, self.prompts_per_iteration, rank, world_size)

    @override
    def read_train(self) -> None:
        """Do nothing: the contexts need no reading."""

    @override
    def read_prompts(self, name: str) -> None:
        self.rows[name] = self.game.records


def _as_they_are(records: Iterable[Record]) -> Iterator[Record]:
    return iter(records)
