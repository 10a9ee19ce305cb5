"""Sentiment: positive words pay, negative ones cost, nothing is neutral, and the prompt is not read."""

import pytest

from lit_align import Sentiment

LEXICONS = ["vader", "afinn"]
POSITIVE, NEGATIVE = "This is a wonderful, happy day.", "This is a horrible, sad day."


def rewards(lexicon: str, *responses: str, prompt: str = "Describe a day.") -> list[float]:
    return list(Sentiment(lexicon).rewards([prompt] * len(responses), list(responses), [{}] * len(responses)))  # type: ignore[arg-type]


@pytest.mark.parametrize("lexicon", LEXICONS)
def test_the_sign_is_that_of_the_words(lexicon):
    positive, negative, neutral = rewards(lexicon, POSITIVE, NEGATIVE, "The table has four legs.")
    assert negative < 0 < positive
    assert neutral == 0


@pytest.mark.parametrize("lexicon", LEXICONS)
def test_swapping_the_responses_gives_the_complement(lexicon):
    judge = Sentiment(lexicon, comparison="bradley_terry", temperature=0.5)
    (forward,) = judge.compare(["p"], [POSITIVE], [NEGATIVE], [{}])
    (backward,) = judge.compare(["p"], [NEGATIVE], [POSITIVE], [{}])
    assert forward + backward == pytest.approx(1)
    assert forward > 0.5


@pytest.mark.parametrize("lexicon", LEXICONS)
@pytest.mark.parametrize("response", ["", "   ", "\n"])
def test_an_empty_response_is_neutral(lexicon, response):
    assert rewards(lexicon, response) == [0.0]


@pytest.mark.parametrize("lexicon", LEXICONS)
def test_the_prompt_is_not_read(lexicon):
    assert rewards(lexicon, POSITIVE, prompt=NEGATIVE) == rewards(lexicon, POSITIVE, prompt=POSITIVE)


def test_vader_lies_between_minus_1_and_1():
    values = rewards("vader", "wonderful great love happy " * 50, "horrible bad hate sad " * 50)
    assert 0.9 < values[0] <= 1
    assert -1 <= values[1] < -0.9


def test_afinn_is_the_valence_per_word_so_that_length_does_not_pay():
    # "good" has valence 3, "bad" -3.
    assert rewards("afinn", "good", "good good good", "good day", "bad good") == [3.0, 3.0, 1.5, 0.0]
    assert rewards("afinn", "bad") == [-3.0]
