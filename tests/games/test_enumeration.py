"""The sampler that draws nothing: every response of every source, weighted by its probability."""

import pytest
import torch

from lit_align import WIND, MovingAverage, Previous
from lit_align.games.enumeration import Enumeration
from lit_align.games.judge import GameJudge
from lit_align.games.lab import play
from lit_align.iteration.collector import Collector
from lit_align.iteration.stages import Stages
from lit_align.models.language_model import LanguageModel
from tests.conftest import prompts_of
from tests.games.playing import POLICIES, moved, tabular

SOURCES = [(), ("policy",), ("policy", "reference"), ("policy", "anchor", "anchor"), ("mixture", "policy")]


def collected(policy, sampler, anchor=None, **scores):
    judge = GameJudge(policy.game)
    collector = Collector(policy, judge, sampler, anchor or Previous(), Stages(visible=False))
    prompts = policy.encode(policy.game.records)
    with torch.no_grad():
        return collector.rollouts_of(prompts, None, scores, seed=0, iteration=4)


@pytest.fixture(params=POLICIES, ids=lambda make: make.__name__)
def policy(request):
    return request.param()


@pytest.mark.parametrize("sources", SOURCES)
def test_weights_sum_to_one_for_every_source_over_the_same_responses(policy, sources):
    rollouts = collected(policy, Enumeration(sources=sources))
    laws = tuple(dict.fromkeys(sources or ("policy",)))
    size, ones = policy.game.responses, torch.ones(policy.game.contexts, dtype=torch.float64)
    assert rollouts.responses.source == tuple(source for source in laws for _ in range(size))
    first = rollouts.slots(laws[0])
    for source in laws:
        slots = rollouts.slots(source)
        assert len(slots) == size
        torch.testing.assert_close(rollouts.weights[:, slots].sum(-1), ones, rtol=0, atol=1e-12)
        for name in ("ids", "mask", "truncated"):
            values = getattr(rollouts.responses, name)
            assert torch.equal(values[:, slots], values[:, first])
        assert torch.equal(policy.indices(rollouts.responses)[0, slots], torch.arange(size))


def test_each_sources_weights_are_its_own_law(policy):
    start = policy.distribution().detach()
    anchor = MovingAverage(1e-9)  # stays where the policy was
    anchor.begin(policy, 0)
    moved(policy, seed=8)
    rollouts = collected(policy, Enumeration(sources=("policy", "anchor", "reference"), mixture=0.3), anchor)
    laws = {"policy": policy.distribution().detach(), "anchor": start, "reference": policy.game.reference}
    for source, law in laws.items():
        torch.testing.assert_close(rollouts.weights[:, rollouts.slots(source)], law)
    assert (laws["policy"] - start).abs().max() > 0.01


def test_the_weighted_mean_of_wins_is_the_win_rate_against_the_policy():
    policy = tabular()
    rollouts = collected(policy, Enumeration())
    expected = torch.einsum("xyz,xz->xy", policy.game.preference, policy.distribution().detach())
    torch.testing.assert_close(rollouts.win_rates, expected)
    torch.testing.assert_close((rollouts.weights * rollouts.win_rates).sum(-1), torch.full((4,), 0.5).double())
    assert (rollouts.responses.iteration, rollouts.responses.seed) == (4, 0)


@pytest.mark.parametrize("budget", [1, 16_384])
def test_scores_do_not_depend_on_the_micro_batches(budget):
    policy = tabular()
    score = {"current": lambda responses: policy.logps(responses)}
    rollouts = collected(policy, Enumeration(token_budget=budget), **score)
    torch.testing.assert_close(rollouts.current_logps.exp(), policy.distribution().detach())


def test_an_evaluation_with_sources_of_its_own_draws_and_weighs_nothing():
    policy = tabular()
    prompts = policy.encode(policy.game.records)
    drawn = Enumeration().respond(policy, prompts, seed=0, iteration=0, sources=("policy",))
    assert drawn.ids.shape == (4, 1, 1)
    assert Enumeration().weights(drawn) is None


def test_all_prompts_are_reported_done():
    policy, told = tabular(), []
    prompts = policy.encode(policy.game.records)
    Enumeration().respond(policy, prompts, seed=0, iteration=0, report=lambda *counts: told.append(counts))
    assert [done for done, _ in told] == [4]


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.5}])
def test_a_law_that_is_not_the_policys_is_enumerated_as_it_is_or_refused(options):
    """Ignoring it would weigh responses by another law than the one asked for."""
    policy = tabular()
    try:
        rollouts = collected(policy, Enumeration(**options))
    except ValueError:
        return
    law = Enumeration(**options).decoding.log_probabilities(policy.distribution().detach().log()).exp().double()
    torch.testing.assert_close(rollouts.weights, law, rtol=0, atol=1e-6)


def test_several_sources_are_one_law_of_equal_parts():
    """The limit of drawing as many responses from each: a step for the win rates against their average."""
    beta, eta = 0.3, 0.8
    policy = tabular()
    reference, start = policy.game.reference, policy.distribution().detach()

    def optimizer(parameters):
        return torch.optim.LBFGS(
            parameters, max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-15, line_search_fn="strong_wolfe"
        )

    module = WIND(
        policy,
        GameJudge(policy.game),
        beta=beta,
        eta=eta,
        sampler=Enumeration(sources=("policy", "reference")),
        optimizer=optimizer,
    )
    module.iteration += 1  # the policy is not the reference, as it would be in iteration 0
    step = play(module, iterations=1).laws[-1]
    rates = torch.einsum("xyz,xz->xy", policy.game.preference, (start + reference) / 2)
    expected = (start.log() + beta * eta * reference.log() + eta * rates) / (1 + beta * eta)
    torch.testing.assert_close(step, expected.softmax(-1), rtol=0, atol=1e-6)


def test_a_language_model_is_refused_in_one_line(tiny_model):
    model = LanguageModel(tiny_model)
    prompts = model.encode(prompts_of(2))
    with pytest.raises(ValueError, match=r"LanguageModel has too many responses to enumerate.*Sampler") as error:
        Enumeration().respond(model, prompts, seed=0, iteration=0)
    assert "\n" not in str(error.value)
