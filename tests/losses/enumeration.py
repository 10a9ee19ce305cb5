"""Policies of a few arms, enumerated: random instances, the mean of a loss over a law of pairs, its minimiser."""

import itertools

import torch


def simplex(arms):
    """A random policy of full support."""
    return torch.randn(arms).softmax(0)


def bradley_terry(rewards):
    """P[i, j] = probability that arm i beats arm j, of rewards."""
    return torch.sigmoid(rewards[:, None] - rewards[None, :])


def intransitive(arms):
    """Random win probabilities that no reward explains."""
    upper = (0.1 + 0.8 * torch.rand(arms, arms)).triu(1)
    return upper + (1 - upper.T).tril(-1) + 0.5 * torch.eye(arms)


def tilted(policy, log_weights):
    """policy * exp(log_weights), normalised."""
    return (policy.log() + log_weights).softmax(0)


def kl(p, q):
    return (p * (p / q).log()).sum()


def over_pairs(loss, law, preference, reference, anchor=None, **options):
    """The population loss as a function of the policy's log-probs: the pair (i, j) has probability law[i, j]."""
    chosen, rejected = torch.meshgrid(torch.arange(len(law)), torch.arange(len(law)), indexing="ij")
    if anchor is not None:
        options |= {"anchor_chosen_logps": anchor.log()[chosen], "anchor_rejected_logps": anchor.log()[rejected]}

    def objective(logps):
        columns = [row[slots] for row in (logps, reference.log()) for slots in (chosen, rejected)]
        return (law * loss(*columns, preference=preference, **options)).sum()

    return objective


def over_tuples(law, size):
    """All groups of this size as arms [tuples, size], and their probabilities under independent draws."""
    index = torch.tensor(list(itertools.product(range(len(law)), repeat=size)))
    return index, law[index].prod(1)


def minimiser(objective, arms):
    """The policy that minimises objective(log-probs), from uniform."""
    logits = torch.zeros(arms, requires_grad=True)
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        loss = objective(logits.log_softmax(0))
        loss.backward()
        return loss

    solver.step(closure)
    return logits.detach().softmax(0)


def total_variation(p, q):
    return float((p - q).abs().sum() / 2)
