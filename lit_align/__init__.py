"""Iterative preference optimisation of language models, on Lightning."""

from typing import Any

__version__ = "0.1.0"

HOME = {
    "AIPO": "algorithms.aipo",
    "AcceleratedPO": "algorithms.accelerated_po",
    "AlignmentModule": "iteration.module",
    "AlphaDPO": "algorithms.alpha_dpo",
    "Anchor": "anchors.base",
    "Checkpoints": "callbacks.checkpoints",
    "ChiPO": "algorithms.chi_po",
    "CollapseAlarm": "callbacks.collapse",
    "Contexts": "games.contexts",
    "DPO": "algorithms.dpo",
    "DataCheck": "callbacks.data_check",
    "EXO": "algorithms.exo",
    "EXOPairwise": "algorithms.exo",
    "EnumerablePolicy": "games.policies",
    "Enumeration": "games.enumeration",
    "Evaluator": "iteration.evaluator",
    "ExactEvaluator": "games.exact_evaluator",
    "Extrapolated": "anchors.extrapolated",
    "Game": "games.game",
    "GameJudge": "games.judge",
    "HeldOutEvaluator": "iteration.evaluator",
    "INPO": "algorithms.inpo",
    "IPO": "algorithms.ipo",
    "Initial": "anchors.previous",
    "Interrupts": "callbacks.interrupts",
    "IterativeBOND": "algorithms.bond",
    "JBOND": "algorithms.jbond",
    "Judge": "judges.base",
    "JudgeError": "judges.patience",
    "LLMJudge": "judges.llm_judge",
    "LanguageModel": "models.language_model",
    "LinearPolicy": "games.policies",
    "LoRA": "models.loading.adapters",
    "MPO": "algorithms.mpo",
    "MemoryCheck": "callbacks.memory_check",
    "Metric": "evaluation.metric",
    "MinorDPO": "algorithms.minor_dpo",
    "MovingAverage": "anchors.moving_average",
    "NashMD": "algorithms.nash_md",
    "ONPO": "algorithms.onpo",
    "ORPO": "algorithms.orpo",
    "OneFolder": "callbacks.one_folder",
    "Optimistic": "anchors.optimistic",
    "PairData": "data.pair_data",
    "PairRM": "judges.pair_rm",
    "PairwiseFunction": "judges.pairwise",
    "PairwiseModule": "algorithms.pairwise",
    "Patience": "judges.patience",
    "Policy": "models.policy",
    "Predictions": "callbacks.predictions",
    "Previous": "anchors.previous",
    "Profile": "callbacks.profile",
    "PromptPool": "data.prompt_pool",
    "RPO": "algorithms.rpo",
    "RandomGame": "games.game",
    "Replay": "data.replay",
    "RewardFunction": "judges.reward",
    "RewardJudge": "judges.reward",
    "RewardModel": "judges.reward_model",
    "RobustDPO": "algorithms.dpo",
    "RockPaperScissors": "games.game",
    "RunRecord": "runs.record",
    "SPPO": "algorithms.sppo",
    "SameRun": "callbacks.same_run",
    "Sampler": "sampling.sampler",
    "Sentiment": "judges.sentiment",
    "SimPO": "algorithms.simpo",
    "Source": "data.sources",
    "StageBars": "callbacks.progress",
    "TabularPolicy": "games.policies",
    "TrainStage": "callbacks.progress",
    "Trainer": "runs.trainer",
    "TreePolicy": "games.tree",
    "Verdict": "judges.base",
    "WIND": "algorithms.wind",
    "WholeFiles": "callbacks.checkpoints",
    "XPO": "algorithms.xpo",
    "adamw": "iteration.module",
    "play": "games.lab",
}
"""Public name -> the module that defines it: the one place where a class is registered.

Configs name a class as ``NAME`` or ``lit_align.NAME``. A module is imported when its name is first asked for, so that
``import lit_align`` and ``--help`` stay quick.
"""

__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in HOME:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}")
    return getattr(import_module(f"lit_align.{HOME[name]}"), name)
