"""Iterative preference optimisation of language models, on Lightning."""

from typing import Any

__version__ = "0.1.0"

# Name -> module; loaded when first asked for, so that `import lit_align` and `--help` stay quick.
_HOME = {
    "AcceleratedPO": "algorithms",
    "AlignmentModule": "algorithms",
    "Contexts": "games.contexts",
    "DPO": "algorithms",
    "Enumeration": "games.enumeration",
    "ExactEvaluator": "algorithms",
    "Extrapolated": "anchors",
    "Game": "games.game",
    "GameJudge": "games.judge",
    "INPO": "algorithms",
    "Initial": "anchors",
    "IterativeBOND": "algorithms",
    "JBOND": "algorithms",
    "LanguageModel": "models",
    "LinearPolicy": "games.policies",
    "LoRA": "models",
    "MovingAverage": "anchors",
    "NashMD": "algorithms",
    "PairwiseFunction": "judges",
    "ONPO": "algorithms",
    "Policy": "models",
    "Previous": "anchors",
    "PromptPool": "data.prompt_pool",
    "RandomGame": "games.game",
    "RewardFunction": "judges",
    "RewardModel": "judges",
    "RockPaperScissors": "games.game",
    "SPPO": "algorithms",
    "Sampler": "sampling",
    "Sentiment": "judges",
    "TabularPolicy": "games.policies",
    "Trainer": "trainer",
    "TreePolicy": "games.tree",
    "WIND": "algorithms",
    "play": "lab",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}")
    return getattr(import_module(f"lit_align.{_HOME[name]}"), name)
