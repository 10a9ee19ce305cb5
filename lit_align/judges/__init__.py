"""Judges: what makes one response better than another."""

from lit_align.judges.ahead import Ahead
from lit_align.judges.base import Judge, Verdict
from lit_align.judges.journal import Journalled
from lit_align.judges.llm_judge import LLMJudge
from lit_align.judges.pair_rm import PairRM
from lit_align.judges.pairwise import PairwiseFunction
from lit_align.judges.patience import JudgeError, Patience
from lit_align.judges.reward import RewardFunction, RewardJudge, wins_from_rewards
from lit_align.judges.reward_model import RewardModel
from lit_align.judges.sentiment import Sentiment

__all__ = [
    "Ahead",
    "Journalled",
    "Judge",
    "JudgeError",
    "LLMJudge",
    "PairRM",
    "PairwiseFunction",
    "Patience",
    "RewardFunction",
    "RewardJudge",
    "RewardModel",
    "Sentiment",
    "Verdict",
    "wins_from_rewards",
]
