"""Iterative preference optimisation of language models, on Lightning."""

from typing import Any

__version__ = "0.1.0"

# Name -> module; loaded when first asked for, so that `import lit_align` and `--help` stay quick.
_HOME = {
    "WIND": "algorithms",
    "AlignmentModule": "algorithms",
    "LanguageModel": "models",
    "LoRA": "models",
    "PairwiseFunction": "judges",
    "Policy": "models",
    "PromptPool": "data.prompt_pool",
    "RewardFunction": "judges",
    "RewardModel": "judges",
    "Sampler": "sampling",
    "Sentiment": "judges",
    "Trainer": "trainer",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}")
    return getattr(import_module(f"lit_align.{_HOME[name]}"), name)
