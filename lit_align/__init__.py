"""This package aligns language models by iterative preference optimisation, on Lightning."""

from typing import Any

__version__ = "0.1.0"


def _algorithms() -> dict[str, str]:
    """Return the file of each class in ``algorithms/`` that extends a module; the files are read, not imported."""
    from pathlib import Path
    from re import MULTILINE, findall

    files = sorted(Path(__file__).with_name("algorithms").glob("*.py"))
    found = {file.stem: findall(r"^class (\w+)\((\w+)", file.read_text(encoding="utf-8"), MULTILINE) for file in files}
    bases = {name: base for classes in found.values() for name, base in classes}

    def is_module(name: str) -> bool:
        return name.endswith("Module") or (name in bases and is_module(bases[name]))

    return {name: f"algorithms.{stem}" for stem, classes in found.items() for name, _ in classes if is_module(name)}


HOME = _algorithms() | {
    "AlignmentModule": "iteration.module",
    "Anchor": "anchors.base",
    "Checkpoints": "callbacks.checkpoints",
    "CollapseAlarm": "callbacks.collapse",
    "Contexts": "games.contexts",
    "DataCheck": "callbacks.data_check",
    "EnumerablePolicy": "games.policies",
    "Enumeration": "games.enumeration",
    "Evaluator": "iteration.evaluator",
    "ExactEvaluator": "games.exact_evaluator",
    "Extrapolated": "anchors.extrapolated",
    "Game": "games.game",
    "GameJudge": "games.judge",
    "HeldOutEvaluator": "iteration.evaluator",
    "Initial": "anchors.previous",
    "Interrupts": "callbacks.interrupts",
    "Judge": "judges.base",
    "JudgeError": "judges.patience",
    "LLMJudge": "judges.llm_judge",
    "LanguageModel": "models.language_model",
    "LinearPolicy": "games.policies",
    "LoRA": "models.loading.adapters",
    "MemoryCheck": "callbacks.memory_check",
    "Metric": "evaluation.metric",
    "MovingAverage": "anchors.moving_average",
    "OneFolder": "callbacks.one_folder",
    "Optimistic": "anchors.optimistic",
    "PairData": "data.pair_data",
    "PairRM": "judges.pair_rm",
    "PairwiseFunction": "judges.pairwise",
    "Patience": "judges.patience",
    "Policy": "models.policy",
    "Predictions": "callbacks.predictions",
    "Previous": "anchors.previous",
    "Profile": "callbacks.profile",
    "PromptPool": "data.prompt_pool",
    "RandomGame": "games.game",
    "Replay": "data.replay",
    "RewardFunction": "judges.reward",
    "RewardJudge": "judges.reward",
    "RewardModel": "judges.reward_model",
    "RockPaperScissors": "games.game",
    "RunRecord": "runs.record",
    "SameRun": "callbacks.same_run",
    "Sampler": "sampling.sampler",
    "Sentiment": "judges.sentiment",
    "Source": "data.sources",
    "StageBars": "callbacks.progress",
    "TabularPolicy": "games.policies",
    "TrainStage": "callbacks.progress",
    "Trainer": "runs.trainer",
    "TreePolicy": "games.tree",
    "Verdict": "judges.base",
    "WholeFiles": "callbacks.checkpoints",
    "adamw": "iteration.module",
    "play": "games.lab",
}
"""This maps each public name to the module that defines it. Classes are registered here alone; algorithms are found.

Configs name a class as ``NAME`` or ``lit_align.NAME``. A module is imported when its name is first asked for, so that
``import lit_align`` and ``--help`` stay quick.
"""

__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in HOME:
        raise AttributeError(f"module 'lit_align' has no attribute {name!r}")
    return getattr(import_module(f"lit_align.{HOME[name]}"), name)
