"""The losses of the algorithms, written out once more in plain arithmetic, at the hyper-parameters of the cases."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One prompt: sequence log-probs of its responses under the four policies, their tokens, wins and rewards."""

    policy: list[float]
    anchor: list[float]
    reference: list[float]
    current: list[float]
    lengths: list[int]
    wins: list[list[float]]
    rewards: list[float]

    @property
    def h(self) -> float:
        """Margin of the first response over the second, to the reference."""
        return self.policy[0] - self.reference[0] - self.policy[1] + self.reference[1]

    @property
    def h_anchor(self) -> float:
        """The same, to the anchor."""
        return self.policy[0] - self.anchor[0] - self.policy[1] + self.anchor[1]

    @property
    def p(self) -> float:
        """P(the first beats the second)."""
        return self.wins[0][1]

    def mean(self, logps: list[float]) -> float:
        """First mean log-prob less the second."""
        return logps[0] / self.lengths[0] - logps[1] / self.lengths[1]

    @property
    def nll(self) -> float:
        """Of the winner, in the mean over the label."""
        return -self.p * self.policy[0] - (1 - self.p) * self.policy[1]

    @property
    def mean_nll(self) -> float:
        """The same, per token."""
        n = self.lengths
        return -self.p * self.policy[0] / n[0] - (1 - self.p) * self.policy[1] / n[1]

    def label(self, loss: Callable[[float], float], x: float) -> float:
        """Mean of a loss over the label, which turns x round."""
        return self.p * loss(x) + (1 - self.p) * loss(-x)


Formula = Callable[[Row, list[Row]], float]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def square(target: float) -> Callable[[float], float]:
    return lambda x: (x - target) ** 2


def logistic(beta: float) -> Callable[[float], float]:
    return lambda x: softplus(-beta * x)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def others(values: list[float], index: int) -> float:
    """Mean of all but one."""
    return mean(values[:index] + values[index + 1 :])


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def wind(risk: Callable[[float, float], float]) -> Formula:
    """beta 0.3, eta 2; win rates with the response itself at one half."""

    def formula(row: Row, rows: list[Row]) -> float:
        g = [(x - a) / 2 + 0.3 * (x - r) for x, a, r in zip(row.policy, row.anchor, row.reference, strict=True)]
        w = [mean(line) for line in row.wins]
        implied = [x - mean(g) + mean(w) for x in g]
        assert all(0.01 < p < 0.99 for p in implied)
        return mean([risk(p, x) for p, x in zip(implied, w, strict=True)])

    return formula


def nce(p: float, w: float) -> float:
    q = 0.5
    data = -w * math.log(p / (p + q)) - (1 - w) * math.log((1 - p) / (1 - p + q))
    return data - 0.5 * math.log(q / (p + q)) - 0.5 * math.log(q / (1 - p + q))


def sppo(row: Row, rows: list[Row]) -> float:
    """beta 0.4, offset one half, win rates against the other response."""
    u = [x - a for x, a in zip(row.policy, row.anchor, strict=True)]
    return mean([(u[0] - (row.p - 0.5) / 0.4) ** 2, (u[1] - (0.5 - row.p) / 0.4) ** 2])


def nash_md(row: Row, rows: list[Row]) -> float:
    """tau 0.3."""
    return -(row.p - 0.5 - 0.3 * (row.policy[0] - row.reference[0])) * row.policy[0]


def jbond(row: Row, rows: list[Row]) -> float:
    """beta 0.4, gamma 0.2."""

    def advantage(r: Row) -> float:
        u = r.current[0] - r.anchor[0]
        return 0.4 * (-math.log(16) * (1 - r.wins[0][1]) * (1 - r.wins[0][2]) - u) - 0.2 * u

    imitation = row.wins[1][2] * row.policy[1] + row.wins[2][1] * row.policy[2]
    gain = advantage(row) - others([advantage(r) for r in rows], rows.index(row))
    return -0.6 * imitation - gain * row.policy[0]


def bond(row: Row, rows: list[Row]) -> float:
    """n 2, beta 0.4, a1 0.5, a2 0.2, approximate law; two samples of the anchor."""

    def advantage(r: Row) -> float:
        log_quantile = [-1.5, -0.5, 0.0][sum(x <= r.rewards[0] for x in r.rewards[1:])]  # H_j - H_2
        to_anchor, to_reference = r.current[0] - r.anchor[0], r.current[0] - r.reference[0]
        return log_quantile - to_anchor - (0.2 * to_anchor + 0.3 * to_reference) / (0.5 * 0.4)

    better = max((1, 2), key=lambda slot: row.rewards[slot])
    gain = advantage(row) - others([advantage(r) for r in rows], rows.index(row))
    return 0.5 * (-0.6 * row.policy[better] - 0.4 * gain * row.policy[0])


def alpha_dpo(row: Row, rows: list[Row]) -> float:
    """beta 2, gamma 0.7, alpha 0.3; statistics over rows and labels, of the policy that collected."""

    def margin(r: Row, logps: list[float]) -> float:
        return r.mean(logps) - r.mean(r.reference)

    margins = [(r.p, margin(r, r.current)) for r in rows]
    mu = mean([(2 * p - 1) * m for p, m in margins])
    sigma = (mean([m**2 for _, m in margins]) - mu**2) ** 0.5
    d, m = row.mean(row.policy), margin(row, row.policy)

    def loss(sign: int) -> float:
        return softplus(-(2 * (sign * d - 0.3 * (sign * m - mu) / sigma) - 0.7))

    return row.p * loss(1) + (1 - row.p) * loss(-1)


def simpo(row: Row, rows: list[Row]) -> float:
    """beta 2, gamma 0.7."""
    return row.label(lambda d: softplus(0.7 - 2 * d), row.mean(row.policy))


def aipo(row: Row, rows: list[Row]) -> float:
    """beta 0.2, alpha 0.3, lambda 0.4."""
    asked = row.policy[0] - row.policy[1] - 1.3 * (row.anchor[0] - row.anchor[1])
    return row.label(logistic(0.2), asked) + 0.4 * row.mean_nll


def minor_dpo(row: Row, rows: list[Row]) -> float:
    """beta 0.2."""
    u = [x - r for x, r in zip(row.policy, row.reference, strict=True)]
    losses = [softplus(-0.2 * (u[w] - max(0.0, u[1 - w]))) for w in (0, 1)]
    return row.p * losses[0] + (1 - row.p) * losses[1]


def chi_po(row: Row, rows: list[Row]) -> float:
    """beta 0.2, R 0.05, which clips some."""
    z = [math.exp(x - r) for x, r in zip(row.policy, row.reference, strict=True)]
    difference = 0.2 * (z[0] + math.log(z[0]) - z[1] - math.log(z[1]))
    return row.label(logistic(1.0), max(-0.1, min(0.1, difference)))


def exo(row: Row, rows: list[Row]) -> float:
    """beta_policy 0.5, beta_reward 0.8."""
    implicit = [0.5 * (x - r) for x, r in zip(row.policy, row.reference, strict=True)]
    return kl(softmax(implicit), softmax([r / 0.8 for r in row.rewards]))


def exo_pairwise(row: Row, rows: list[Row]) -> float:
    """beta 0.2, eps 0.1."""
    return row.label(lambda h: kl([sigmoid(0.2 * h), sigmoid(-0.2 * h)], [0.9, 0.1]), row.h)


def robust(h: float) -> float:
    """beta 0.2, eps 0.1."""
    return (0.9 * softplus(-0.2 * h) - 0.1 * softplus(0.2 * h)) / 0.8


def log_2(row: Row, rows: list[Row]) -> float:
    return math.log(2)


def constant(value: float) -> Formula:
    return lambda row, rows: value
