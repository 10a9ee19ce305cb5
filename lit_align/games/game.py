"""Games are finite contextual bandits whose preferences, and so every quantity of the theory, are known exactly."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.games.checks import check_distribution, check_preference, check_rewards
from lit_align.games.preferences import (
    bradley_terry_preference,
    hard_preference,
    random_skew,
    rock_paper_scissors,
)
from lit_align.types import Record
from lit_align.utils.arguments import check_finite


class Game:
    """Holds what a judge prefers among the responses to each context, and the law that learning starts from.

    Args:
        reference: pi_ref of every response, > 0; rows sum to one.
        preference: ``[x, y, z]`` = P(y beats z | x).
        rewards: Rewards that the preference comes from, where it does.
        features: Features of every response, for policies that are linear in them.
        copies: Independent repetitions: the contexts are so many blocks of equal size. They train side by side in one
            run and make its intervals.
    """

    def __init__(
        self,
        reference: Float[Tensor, "contexts responses"],
        preference: Float[Tensor, "contexts responses responses"],
        *,
        rewards: Float[Tensor, "contexts responses"] | None = None,
        features: Float[Tensor, "contexts responses features"] | None = None,
        copies: int = 1,
    ) -> None:
        self.reference = check_distribution("reference", reference)
        self.preference = check_preference("preference", preference)
        self.rewards = None if rewards is None else check_rewards("rewards", rewards)
        self.features = features
        self.copies = copies
        if not (self.reference > 0).all():
            index = (self.reference <= 0).nonzero()[0].tolist()
            raise ValueError(f"reference{index} is 0: policies start from it and need all of it to be positive")
        if copies < 1 or len(self.reference) % copies:
            raise ValueError(f"copies ({copies}) must be positive and divide the number of contexts ({self.contexts})")

    @property
    def contexts(self) -> int:
        """Return the number of contexts over all copies: the rows of every tensor here."""
        return len(self.reference)

    @property
    def responses(self) -> int:
        """Return the number of responses to each context."""
        return self.reference.shape[1]

    @property
    def copy_of(self) -> Tensor:
        """Return the copy that each context belongs to."""
        return torch.arange(self.contexts) // (self.contexts // self.copies)

    @property
    def records(self) -> list[Record]:
        """Return the contexts as prompts."""
        return [{"prompt": f"context {x}", "context": x} for x in range(self.contexts)]


class RandomGame(Game):
    """Draws a game at random.

    Args:
        contexts: Contexts of each copy.
        responses: Responses to each context.
        preference: ``bradley_terry`` or ``hard``, from standard normal rewards, or ``skew``: random and intransitive.
        temperature: Temperature of the Bradley-Terry law, in standard deviations of the reward, > 0.
        reference: ``uniform``, or ``random``: softmax of standard normal logits.
        features: Features of every response, standard normal, in which the reward is linear; 0 means rewards of their
            own for every response.
        copies: Independent repetitions.
        seed: Seed of everything random.
    """

    def __init__(
        self,
        contexts: int = 4,
        responses: int = 10,
        preference: Literal["bradley_terry", "hard", "skew"] = "bradley_terry",
        temperature: float = 1.0,
        reference: Literal["uniform", "random"] = "uniform",
        features: int = 0,
        copies: int = 1,
        seed: int = 0,
    ) -> None:
        check_finite("RandomGame", {"temperature": temperature, "seed": seed})
        generator = torch.Generator().manual_seed(seed)
        rows = contexts * copies
        logits = torch.randn(rows, responses, generator=generator, dtype=torch.float64)
        phi = None
        if features:
            phi = torch.randn(rows, responses, features, generator=generator, dtype=torch.float64)
            direction = torch.randn(copies, features, generator=generator, dtype=torch.float64)
            direction = (direction / direction.norm(dim=-1, keepdim=True)).repeat_interleave(contexts, dim=0)
            rewards = (phi @ direction[..., None]).squeeze(-1)
        else:
            rewards = torch.randn(rows, responses, generator=generator, dtype=torch.float64)
        if preference == "skew":
            wins = random_skew((rows,), responses, generator=generator)
        elif preference == "hard":
            wins = hard_preference(rewards)
        else:
            wins = bradley_terry_preference(rewards, temperature=temperature)
        law = torch.zeros_like(logits) if reference == "uniform" else logits
        super().__init__(
            law.softmax(-1), wins, rewards=None if preference == "skew" else rewards, features=phi, copies=copies
        )


class RockPaperScissors(Game):
    """Has no best response, and dynamics that would rather circle than settle.

    Args:
        reference: pi_ref of the three.
        margin: By how much a win exceeds ½, in (0, ½]; ½ is certain.
        copies: Repetitions, which differ in what is sampled only.
    """

    def __init__(
        self, reference: tuple[float, float, float] = (0.5, 0.3, 0.2), margin: float = 0.5, copies: int = 1
    ) -> None:
        law = torch.tensor([reference] * copies, dtype=torch.float64)
        super().__init__(law, rock_paper_scissors(margin).expand(copies, 3, 3), copies=copies)
