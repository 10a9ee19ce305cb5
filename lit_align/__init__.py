"""Iterative preference optimisation of language models, on Lightning."""

from typing import Any

__version__ = "0.1.0"

# Name -> module; loaded when first asked for, so that `import lit_align` and `--help` stay quick.
_HOME = {
    "AIPO": "algorithms",
    "AcceleratedPO": "algorithms",
    "AlignmentModule": "algorithms",
    "AlphaDPO": "algorithms",
    "ChiPO": "algorithms",
    "CollapseAlarm": "callbacks",
    "Contexts": "games.contexts",
    "DPO": "algorithms",
    "EXO": "algorithms",
    "EXOPairwise": "algorithms",
    "Enumeration": "games.enumeration",
    "ExactEvaluator": "algorithms",
    "Extrapolated": "anchors",
    "Game": "games.game",
    "GameJudge": "games.judge",
    "INPO": "algorithms",
    "IPO": "algorithms",
    "Initial": "anchors",
    "IterativeBOND": "algorithms",
    "JBOND": "algorithms",
    "LLMJudge": "judges",
    "LanguageModel": "models",
    "LinearPolicy": "games.policies",
    "LoRA": "models",
    "MPO": "algorithms",
    "MinorDPO": "algorithms",
    "MovingAverage": "anchors",
    "NashMD": "algorithms",
    "ONPO": "algorithms",
    "PairData": "data.pair_data",
    "PairRM": "judges",
    "PairwiseFunction": "judges",
    "Policy": "models",
    "Previous": "anchors",
    "PromptPool": "data.prompt_pool",
    "RPO": "algorithms",
    "RandomGame": "games.game",
    "Replay": "data.replay",
    "RewardFunction": "judges",
    "RewardModel": "judges",
    "RobustDPO": "algorithms",
    "RockPaperScissors": "games.game",
    "SPPO": "algorithms",
    "Sampler": "sampling",
    "Sentiment": "judges",
    "SimPO": "algorithms",
    "TabularPolicy": "games.policies",
    "Trainer": "trainer",
    "TreePolicy": "games.tree",
    "WIND": "algorithms",
    "XPO": "algorithms",
    "play": "lab",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}")
    return getattr(import_module(f"lit_align.{_HOME[name]}"), name)
