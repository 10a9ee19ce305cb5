"""The sampling law: temperature, top-k, top-p, and the draw by inverse CDF."""

import pytest
import torch

from lit_align.sampling.decoding import Decoding, draw

PROBABILITIES = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.2, 0.1])


def law(logits=None, **options):
    logits = PROBABILITIES.log() if logits is None else logits
    return Decoding(max_new_tokens=4, **options).log_probabilities(logits[None])[0].exp()


def stratified(count):
    return (torch.arange(count) + torch.rand(count)) / count


def drawn(uniforms, probabilities=PROBABILITIES):
    return draw(probabilities.log().expand(len(uniforms), -1), uniforms)


def test_frequencies_of_independent_draws_are_the_probabilities():
    tokens, _ = drawn(torch.rand(20_000))
    counts = torch.bincount(tokens, minlength=6)
    possible = PROBABILITIES > 0
    expected = 20_000 * PROBABILITIES[possible]
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 13.28  # chi-square, 4 degrees, 1 %
    assert counts[2] == 0


def test_on_an_even_grid_every_token_gets_its_share_of_the_interval():
    tokens, logps = drawn(stratified(2000))
    counts = torch.bincount(tokens, minlength=6) / 2000
    torch.testing.assert_close(counts, PROBABILITIES, atol=2 / 2000, rtol=0)
    assert (tokens.diff() >= 0).all()
    torch.testing.assert_close(logps, PROBABILITIES.log()[tokens])


def test_tokens_without_probability_are_not_drawn_at_either_edge():
    probabilities = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    almost_one = 1 - 2.0**-24
    tokens, logps = drawn(torch.tensor([0.0, 0.3, almost_one]), probabilities)
    assert tokens.tolist() == [1, 3, 3]
    assert logps.isfinite().all()


def test_rounding_in_the_sum_never_leads_past_the_last_possible_token():
    logits = torch.randn(50, 4001)
    logits[:, -1] = -torch.inf
    log_probabilities = Decoding(max_new_tokens=1).log_probabilities(logits)
    tokens, logps = draw(log_probabilities, torch.full((50,), 1 - 2.0**-24))
    assert (tokens < 4000).all()
    assert logps.isfinite().all()


@pytest.mark.parametrize("vocabulary", [255, 256, 257, 1000, 4096])
@pytest.mark.parametrize("options", [{}, {"top_k": 40}, {"top_p": 0.9}, {"temperature": 0.3}, {"temperature": 0.0}])
def test_draws_over_blocks_are_those_of_one_sum_in_double_precision(vocabulary, options):
    logits, uniforms = 3 * torch.randn(2000, vocabulary), torch.rand(2000)
    law = Decoding(max_new_tokens=1, **options).log_probabilities(logits).double()
    cdf = law.softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cdf, uniforms[:, None].double() * cdf[:, -1:], right=True)
    tokens, logps = draw(Decoding(max_new_tokens=1, **options).scores(logits), uniforms)
    # A float32 sum may fall on the other side of a number that lies within 1e-6 of a step.
    near = (cdf - uniforms[:, None]).abs().amin(-1) < 1e-6
    assert near.float().mean() < 0.05
    assert torch.equal(tokens[~near], expected.squeeze(-1)[~near])
    torch.testing.assert_close(logps.double(), law.gather(-1, tokens[:, None]).squeeze(-1), rtol=0, atol=1e-5)


def test_running_sums_that_waver_lead_to_no_token_without_probability(monkeypatch):
    """As parallel sums on accelerators do, by less."""
    exact = torch.Tensor.cumsum

    def uneven(self, dim):
        sums = exact(self, dim)
        return sums * (1 + 1e-2 * (-1) ** torch.arange(sums.shape[dim]))

    monkeypatch.setattr(torch.Tensor, "cumsum", uneven)
    logits = torch.randn(500, 1500).masked_fill(torch.rand(500, 1500) < 0.9, -torch.inf)
    for uniforms in (torch.rand(500), torch.zeros(500), torch.full((500,), 1 - 2.0**-24)):
        tokens, logps = draw(logits, uniforms)
        assert (tokens < 1500).all()
        assert logps.isfinite().all()


def test_the_law_is_normalised_whatever_the_scale_of_the_logits():
    logits = torch.tensor([1e4, 1e4 - 1, -1e4])
    torch.testing.assert_close(law(logits), logits.softmax(0))
    torch.testing.assert_close(law(), PROBABILITIES)
    assert Decoding(max_new_tokens=1).log_probabilities(logits[None].bfloat16()).dtype == torch.float32


def test_temperature_divides_the_logits():
    torch.testing.assert_close(law(temperature=2.0), PROBABILITIES.sqrt() / PROBABILITIES.sqrt().sum())
    torch.testing.assert_close(law(temperature=0.5), PROBABILITIES**2 / (PROBABILITIES**2).sum())


def test_temperature_zero_is_the_limit_greedy_choice():
    assert law(temperature=0.0).tolist() == [0, 1, 0, 0, 0, 0]
    torch.testing.assert_close(law(temperature=0.0), law(temperature=1e-3))
    tokens, logps = draw(
        Decoding(max_new_tokens=1, temperature=0.0).log_probabilities(PROBABILITIES.log().expand(3, -1)), stratified(3)
    )
    assert tokens.tolist() == [1, 1, 1]
    assert logps.tolist() == [0, 0, 0]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 100])
def test_top_k_keeps_the_k_most_likely_in_proportion(k):
    kept = torch.zeros(6).index_fill(0, PROBABILITIES.argsort(descending=True)[:k], 1.0)
    expected = PROBABILITIES * kept
    torch.testing.assert_close(law(top_k=k), expected / expected.sum())


@pytest.mark.parametrize(
    ("p", "kept"),
    [(1e-6, [1]), (0.39, [1]), (0.41, [1, 3]), (0.64, [1, 3]), (0.66, [1, 3, 4]), (0.96, [0, 1, 3, 4, 5])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(p, kept):
    mask = torch.zeros(6).index_fill(0, torch.tensor(kept), 1.0)
    expected = PROBABILITIES * mask
    torch.testing.assert_close(law(top_p=p), expected / expected.sum())


def test_top_p_of_random_laws_reaches_p_and_needs_all_it_keeps():
    probabilities = (2 * torch.randn(200, 30)).softmax(-1)
    kept = Decoding(max_new_tokens=1, top_p=0.8).log_probabilities(probabilities.log()) > -torch.inf
    mass = (probabilities * kept).sum(-1)
    least = probabilities.masked_fill(~kept, 2).min(-1).values
    most_dropped = probabilities.masked_fill(kept, -1).max(-1).values
    assert (mass >= 0.8 - 1e-6).all()
    assert (mass - least < 0.8).all()
    assert (least >= most_dropped).all()


def test_top_p_is_taken_after_top_k_and_temperature():
    # Half the mass of the two most likely at temperature 1/2: .16 / .2225 alone.
    assert law(top_k=2, temperature=0.5, top_p=0.7).tolist() == [0, 1, 0, 0, 0, 0]
    assert (law(top_k=2, temperature=0.5, top_p=0.73) > 0).tolist() == [False, True, False, True, False, False]


def test_only_the_untouched_law_is_the_policy():
    assert Decoding(max_new_tokens=4).is_policy
    for options in ({"temperature": 0.9}, {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.99}):
        assert not Decoding(max_new_tokens=4, **options).is_policy


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_values_without_meaning_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Decoding(**{"max_new_tokens": 4, **options})
