"""The judge of a game knows the preference, and gives it as it is or as one noisy comparison shows it."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.games.game import Game
from lit_align.games.preferences import hard_preference
from lit_align.judges.base import Judge, Report, Verdict
from lit_align.sampling.uniforms import mixed_seed, run_seed, token_uniforms
from lit_align.types import Prompts, Record

_JUDGE = 2  # its stream of random numbers; sampling has 0 and 1


class GameJudge(Judge):
    """Compares responses of a game by its own preference.

    Args:
        game: The game.
        noise: ``none``: P(y beats z) itself. ``comparisons``: every pair is compared once, with outcome 0 or 1.
            ``rewards``: every reward is seen once, with Gumbel noise of scale ``temperature``, and the larger wins:
            one comparison has the Bradley-Terry law, and those of a group agree with one another.
        temperature: Scale of the noise on rewards, > 0, in their unit.

    Raises:
        ValueError: Noise on rewards is asked for and the game has none; or ``temperature`` <= 0.
    """

    patience = None  # it waits for nobody: an error is one of its code

    def __init__(
        self, game: Game, noise: Literal["none", "comparisons", "rewards"] = "none", temperature: float = 1.0
    ) -> None:
        if noise == "rewards" and game.rewards is None:
            raise ValueError("model.judge.noise: rewards needs a game that has rewards: use comparisons")
        if not temperature > 0:
            raise ValueError(f"model.judge.temperature must be > 0, got {temperature}")
        self.game = game
        self.noise = noise
        self.temperature = temperature
        self.has_rewards = game.rewards is not None

    @override
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """Return P(first beats second), without noise."""
        del prompts
        rows = [(record["context"], int(y), int(z)) for record, y, z in zip(records, first, second, strict=True)]
        wins: list[float] = self.game.preference[tuple(torch.tensor(rows).T)].tolist()
        return wins

    @override
    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        context = torch.tensor([record["context"] for record in prompts.records])
        index = torch.tensor([[int(text) for text in group] for group in texts])
        rewards = None if self.game.rewards is None else self.game.rewards[context[:, None], index]
        if self.noise == "rewards":
            assert rewards is not None
            rewards = rewards + self.temperature * self._gumbel(prompts, index.shape[1])
            wins = hard_preference(rewards)
        else:
            wins = self.game.preference[context[:, None, None], index[:, :, None], index[:, None, :]]
        if self.noise == "comparisons":
            wins = self._compared_once(wins, prompts)
        if report is not None:
            report(len(texts))
        return Verdict(wins, torch.ones_like(wins, dtype=torch.bool), rewards)

    def _compared_once(self, wins: Tensor, prompts: Prompts) -> Float[Tensor, "batch group group"]:
        size = wins.shape[1]
        won = (self._uniforms(prompts, size, size) < wins).to(wins.dtype).triu(1)
        return won + (1 - won.mT).tril(-1) + torch.eye(size, dtype=wins.dtype) / 2

    def _gumbel(self, prompts: Prompts, size: int) -> Float[Tensor, "batch group"]:
        uniforms = self._uniforms(prompts, size, 1).squeeze(-1)
        return -(-(uniforms + 2.0**-25).log()).log()  # the middle of each cell: never 0, never 1

    def _uniforms(self, prompts: Prompts, *shape: int) -> Float[Tensor, "batch first second"]:
        seed = mixed_seed(run_seed(), _JUDGE)  # ids move on with every pass over the pool, and the noise with them
        return token_uniforms(prompts.record_id, *shape, seed=seed, iteration=0).double()
