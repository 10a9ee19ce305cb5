"""A word list scores sentiment: it is instant, deterministic, and real enough to align a model to in minutes.

[1] C. Hutto, E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
    ICWSM 2014.
[2] F. Nielsen, "A new ANEW: evaluation of a word list for sentiment analysis in microblogs", 2011, arXiv:1103.2903.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from typing_extensions import override

from lit_align.judges.reward import Comparison, RewardJudge
from lit_align.types import Record, SpecialTokens


class Sentiment(RewardJudge):
    """Rewards positive words of the response; the prompt is not read.

    Args:
        lexicon: ``vader`` [1], compound score in [-1, 1]; or ``afinn`` [2], sum of word valences in [-5, 5], per word
            of the response so that length does not pay.
    """

    patience = None  # it waits for nobody, so any error is one of its code

    def __init__(
        self,
        lexicon: Literal["vader", "afinn"] = "vader",
        comparison: Comparison = "hard",
        temperature: float = 1.0,
        special_tokens: SpecialTokens = "drop",
    ) -> None:
        super().__init__(comparison, temperature, special_tokens)
        self.lexicon = lexicon

    @property
    @override
    def name(self) -> str:
        return self.lexicon

    @override
    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        del prompts, records
        if self.lexicon == "vader":
            return [self._scorer.polarity_scores(response)["compound"] for response in responses]
        return [self._scorer.score(response) / max(1, len(response.split())) for response in responses]

    @cached_property
    def _scorer(self) -> Any:
        try:
            if self.lexicon == "vader":
                from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

                return SentimentIntensityAnalyzer()
            from afinn import Afinn

            return Afinn()
        except ImportError as error:
            raise ImportError(f'the {self.lexicon} lexicon needs: pip install "lit-align[quickstart]"') from error
