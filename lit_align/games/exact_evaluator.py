"""The exact evaluator measures without samples, where everything can be counted."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_align.evaluation.win_rate import WinRate
from lit_align.games.equilibria import wind_equilibrium
from lit_align.games.game import Game
from lit_align.games.measures import exploitability, kl, sub_optimality, win_rate
from lit_align.games.policies import EnumerablePolicy
from lit_align.iteration.collector import Collector
from lit_align.iteration.evaluator import Evaluator
from lit_align.iteration.heldout_files import HeldOutFiles
from lit_align.types import Prompts


class ExactEvaluator(Evaluator):
    """Measures where a policy stands in its game, exactly: means over contexts.

    Its results are ``win_rate`` against the reference, with an interval over the game's copies where there are
        several; ``kl`` (nats) to it; ``exploitability``, the gain of a best response in the game with KL strength
    ``beta``, in win rate; ``kl_to_equilibrium`` (nats, KL(pi* || pi), where beta > 0); and
    ``sub_optimality``, the best reward less the mean reward, where there are rewards.

    Args:
        beta: KL strength of the game whose equilibrium is aimed at, >= 0; 0 is the game without regularisation.
    """

    def __init__(self, beta: float = 0.0) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"model.evaluator.beta must be >= 0, got {beta}")
        self.beta = beta
        self.win_rate = WinRate()
        self.names = ("kl", "exploitability", "kl_to_equilibrium", "sub_optimality")
        for name in self.names:
            self.add_module(name, MeanMetric().set_dtype(torch.float64))
        self._equilibrium: tuple[Game, Tensor] | None = None

    @override
    def evaluate(
        self, collector: Collector, prompts: Prompts, files: HeldOutFiles, *, iteration: int, seed: int
    ) -> None:
        del files, iteration, seed
        policy = collector.policy
        if not isinstance(policy, EnumerablePolicy):
            raise ValueError(f"ExactEvaluator measures policies that can be enumerated, not {type(policy).__name__}")
        with collector.stages.stage("evaluate", len(prompts)) as advance:
            rows = prompts.ids[:, -1]
            for name, values in self._measures(policy.game, policy.distribution()).items():
                self.get_submodule(name).update(values[rows])  # type: ignore[operator]
            wins = win_rate(policy.distribution(), policy.game.reference, policy.game.preference)
            self.win_rate.update(wins[rows], policy.game.copy_of[rows])
            advance(len(prompts))

    @override
    def result(self) -> dict[str, float]:
        values = self.win_rate.columns("win_rate")
        for name in self.names:
            metric = self.get_submodule(name)
            assert isinstance(metric, MeanMetric)
            if metric.update_count:
                values[name] = float(metric.compute())
                metric.reset()
        return values

    def _measures(self, game: Game, law: Tensor) -> dict[str, Tensor]:
        values = {"kl": kl(law, game.reference)}
        values["exploitability"] = exploitability(law, game.preference, reference=game.reference, beta=self.beta)
        if self.beta > 0:
            if self._equilibrium is None or self._equilibrium[0] is not game:
                self._equilibrium = game, wind_equilibrium(game.reference, game.preference, beta=self.beta)
            values["kl_to_equilibrium"] = kl(self._equilibrium[1], law)
        if game.rewards is not None:
            values["sub_optimality"] = sub_optimality(law, game.rewards)
        return values
