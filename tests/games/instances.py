"""Random instances of games, and the few laws that several tests write out again independently."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from lit_align.games import bradley_terry_preference, hard_preference, random_skew

KINDS = ["skew", "hard", "bradley-terry", "coin-flips"]
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_laws(*shape, seed=0, spread=1.0):
    """Laws with full support; a larger spread has rarer responses."""
    return (spread * torch.randn(shape, dtype=torch.float64, generator=generator(seed))).softmax(-1)


def random_rewards(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def random_preferences(kind, *shape, seed=0):
    """Preferences of a kind: intransitive (soft, or every pair 0 or 1) or from rewards (hard or logistic)."""
    if kind == "hard":
        return hard_preference(random_rewards(*shape, seed=seed))
    if kind == "bradley-terry":
        return bradley_terry_preference(random_rewards(*shape, seed=seed))
    soft = random_skew(shape[:-1], shape[-1], generator=generator(seed))
    return 0.5 + 0.5 * (soft - 0.5).sign() if kind == "coin-flips" else soft


def laws(responses):
    """Strategy: one law over so many responses, some of them possibly rare."""
    weights = st.lists(st.floats(1e-9, 1), min_size=responses, max_size=responses)
    return weights.map(lambda row: vector(*row) / vector(*row).sum())


def regularised(policy, opponent, preference, reference, beta):
    """f(pi, pi') = P(pi > pi') - beta KL(pi || ref) + beta KL(pi' || ref)."""

    def divergence(law):
        return (law * (law / reference).log()).sum(-1)

    wins = torch.einsum("...y,...yz,...z->...", policy, preference, opponent)
    return wins - beta * divergence(policy) + beta * divergence(opponent)
