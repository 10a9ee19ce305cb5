"""Modules on small games: how the laws build one, start it anywhere, and average its loss over every group there is."""

import itertools
from dataclasses import replace
from functools import partial

import torch

from lit_align.games import bradley_terry_preference, random_skew
from lit_align.games.enumeration import Enumeration
from lit_align.games.game import Game
from lit_align.games.judge import GameJudge
from lit_align.games.policies import TabularPolicy
from lit_align.types import Responses, Rollouts
from tests.games.instances import generator, random_laws, random_rewards

LBFGS = partial(
    torch.optim.LBFGS, max_iter=100, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
)
TWO_SOURCES = {
    "IterativeBOND": ("policy", "anchor"),
    "NashMD": ("policy", "mixture"),
}


def sgd(rate):
    return partial(torch.optim.SGD, lr=rate)


def random_game(kind, *, contexts=3, responses=5, seed=0, copies=1, spread=1.0):
    """A game whose reference is the further from uniform the larger its spread; each copy is the same game."""
    reference = random_laws(contexts, responses, seed=seed + 100, spread=spread)
    rewards = None
    if kind == "skew":
        wins = random_skew((contexts,), responses, generator=generator(seed))
    else:
        rewards = random_rewards(contexts, responses, seed=seed).repeat(copies, 1)
        wins = bradley_terry_preference(rewards[:contexts])
    return Game(reference.repeat(copies, 1), wins.repeat(copies, 1, 1), rewards=rewards, copies=copies)


def on(game, algorithm, *, start=None, policy=TabularPolicy, judge=None, **options):
    """An algorithm on a game: all responses enumerated and every iteration solved, unless the options say otherwise.

    From another law than the reference a run is in its second iteration: the first one insists on the reference.
    """
    sources = TWO_SOURCES.get(algorithm.__name__, ())
    defaults = {"sampler": Enumeration(sources=sources), "optimizer": LBFGS}
    module = algorithm(policy(game), judge or GameJudge(game), **(defaults | options))
    if start is not None:
        place(module.policy, start)
        module.iteration.fill_(1)
    return module


@torch.no_grad()
def place(policy, law):
    """Make a tabular policy the given law."""
    policy.logits.copy_(law.log())


@torch.no_grad()
def collected(module):
    """The rollouts that the iteration would train on."""
    module.begin()
    prompts = module.policy.encode(module.policy.game.records)
    policy = module.policy
    every = {  # each for itself: laws start from policies that a first iteration would not
        "anchor": lambda responses: module.anchor.logps(policy, responses),
        "reference": lambda responses: policy.logps(responses, "reference"),
        "current": policy.logps,
    }
    scores = {name: score for name, score in every.items() if name in module.needs}
    return module.prepare(module.collector.rollouts_of(prompts, None, scores, seed=0, iteration=int(module.iteration)))


@torch.no_grad()
def judged(module, slots, anchor, context=0):
    """Rollouts of given one-token responses, ``slots[group, slot]``, to one context; the anchor is a law over them."""
    policy, rows = module.policy, len(slots)
    prompts = policy.encode([policy.game.records[context]] * rows)
    ids = slots.unsqueeze(-1)
    nothing = torch.zeros(slots.shape, dtype=torch.bool)
    source = tuple(module.sampler.slots[: slots.shape[1]])
    responses = Responses(
        prompts, ids, torch.ones_like(ids, dtype=torch.bool), nothing, torch.zeros_like(ids).double(), source
    )
    verdict = module.judge.verdict(prompts, policy.text(responses))
    return Rollouts(
        responses,
        verdict.wins,
        verdict.compared,
        verdict.rewards,
        anchor_token_logps=anchor.log()[ids],
        reference_token_logps=policy.logps(responses, "reference"),
        current_token_logps=policy.logps(responses).detach(),
    )


def every_group(*laws):
    """All groups whose slots are drawn from these laws, ``[groups, slots]``, and how likely each is."""
    groups = torch.tensor(list(itertools.product(*(range(len(law)) for law in laws))))
    chances = torch.stack([law[groups[:, slot]] for slot, law in enumerate(laws)]).prod(0)
    return groups, chances


def row_losses(module, rollouts):
    """Weighted loss of each prompt at the policy as it is, and its weight."""
    values, weights = module.loss(replace(rollouts, policy_token_logps=module.policy.logps(rollouts.responses)))
    return (values * weights).reshape(len(rollouts), -1).sum(1), weights.reshape(len(rollouts), -1).sum(1)


def gradient(module, rollouts, chances=None):
    """Of the mean weighted loss, each prompt as likely as said; by default of the sum over prompts."""
    losses, _ = row_losses(module, rollouts)
    total = losses.sum() if chances is None else chances @ losses
    return torch.autograd.grad(total, module.policy.logits)[0]


def every_two(module, rollouts, chances):
    """Every group next to every other: the first of the two, with the baseline that the second gives it."""
    two = torch.cartesian_prod(torch.arange(len(chances)), torch.arange(len(chances)))
    baselines = torch.stack([module.prepare(rollouts.select(rows)).baselines[0] for rows in two.tolist()])
    first = rollouts.select(two[:, 0].tolist())
    return replace(first, baselines=baselines), chances[two].prod(-1)


def minimised(module, objective):
    """The law that minimises an objective of the module's policy, from where the policy is."""
    solver = LBFGS([module.policy.logits])

    def closure():
        solver.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    solver.step(closure)
    return module.policy.distribution().detach()


def gradient_of(objective, law):
    """Of a function of a law, in the law's logits."""
    logits = law.log().requires_grad_()
    return torch.autograd.grad(objective(logits.softmax(-1)), logits)[0]


def divergence(p, q):
    return (p * (p / q).log()).sum(-1)


def distance(p, q):
    """Largest total variation over the contexts."""
    return float(((p - q).abs().sum(-1) / 2).max())
