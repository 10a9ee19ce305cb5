"""The prompt pool of a game: its contexts."""

from lit_align.data.prompt_pool import Encode, PromptPool
from lit_align.games.game import Game


class Contexts(PromptPool):
    """Every context of a game is a prompt, to train on and to be measured on.

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

    def prepare(self, encode: Encode, *names: str) -> None:
        """The contexts need no reading."""
        self._encode = encode
        self._pool = self.game.records
        self._sets = dict.fromkeys(names, encode(self.game.records))
