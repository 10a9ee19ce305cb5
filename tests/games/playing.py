"""Games, policies and draws that the tests of the lab share."""

import torch
from torch import nn

from lit_align.games.game import Game
from lit_align.games.policies import EnumerablePolicy, LinearPolicy, TabularPolicy
from lit_align.games.tree import TreePolicy
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.uniforms import token_uniforms
from tests.games.instances import generator, random_laws, random_preferences, random_rewards

SEQUENCES = 40  # of three symbols and length 3


def game(contexts=4, responses=5, *, copies=1, features=0, rewards=True, seed=0):
    """A random game with an uneven reference."""
    phi = torch.randn(contexts, responses, features, dtype=torch.float64, generator=generator(seed + 1))
    return Game(
        random_laws(contexts, responses, seed=seed),
        random_preferences("skew", contexts, responses, seed=seed),
        rewards=random_rewards(contexts, responses, seed=seed + 2) if rewards else None,
        features=phi if features else None,
        copies=copies,
    )


def tabular():
    return moved(TabularPolicy(game()))


def linear():
    return moved(LinearPolicy(game(features=3, copies=2)))


def tree():
    return moved(TreePolicy(game(2, SEQUENCES)))


POLICIES = [tabular, linear, tree]


class MLPPolicy(EnumerablePolicy):
    """Logits that are not linear in the weights."""

    def __init__(self, game):
        bandit = TabularPolicy(game)
        super().__init__(game, bandit.tokens, bandit.mask, bandit.children_of, bandit.eos)
        torch.manual_seed(0)
        layers = nn.Linear(game.features.shape[-1], 8), nn.Tanh(), nn.Linear(8, 1)
        self.network = nn.Sequential(*layers).double()

    def table(self, source):
        logits = self.game.reference.log()
        if source == "policy":
            logits = logits + self.network(self.game.features).squeeze(-1)
        return logits.log_softmax(-1)[:, None]


@torch.no_grad()
def moved(policy, seed=3, size=0.7):
    """The policy, away from its reference."""
    for parameter in policy.parameters():
        parameter += size * torch.randn(parameter.shape, dtype=torch.float64, generator=generator(seed))
    return policy


def everything(policy, source="policy", mixture=0.5):
    """Every response to every context."""
    return policy.enumerate(policy.encode(policy.game.records), Decoding(max_new_tokens=8, mixture=mixture), source)


def draws(policy, source="policy", count=4000, seed=0, **decoding):
    """So many independent responses to every context."""
    prompts = policy.encode(policy.game.records)
    decoding = Decoding(**{"max_new_tokens": 4, **decoding})
    uniforms = token_uniforms(prompts.record_id, count, decoding.max_new_tokens, seed=seed, iteration=0)
    return policy.sample(prompts, uniforms, decoding, source)


def assert_frequencies(index, law):
    """Counts of each response agree with a law: chi-squared within five standard deviations, a row at a time."""
    for seen, expected in zip(index, law * index.shape[1], strict=True):
        counts = torch.bincount(seen, minlength=len(expected)).double()
        rare = expected < 5
        cells = torch.cat([counts[~rare], counts[rare].sum()[None]])
        means = torch.cat([expected[~rare], expected[rare].sum()[None]])
        cells, means = cells[means > 0], means[means > 0]
        freedom = len(cells) - 1
        assert freedom >= 1
        assert float(((cells - means) ** 2 / means).sum()) < freedom + 5 * (2 * freedom) ** 0.5
