"""Enumerable policies: log-probs, draws, enumeration and text all speak of one law; what trains and what is shared."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import pad

from lit_align import Sampler
from lit_align.games import geometric_mixture
from lit_align.games.policies import LinearPolicy, TabularPolicy
from lit_align.games.tree import TreePolicy
from tests.games.playing import POLICIES, assert_frequencies, draws, everything, game, linear, tabular, tree

SOURCES = ["policy", "reference"]


@pytest.fixture(params=POLICIES, ids=lambda make: make.__name__)
def policy(request):
    return request.param()


def logps(policy, responses, source="policy"):
    with torch.no_grad():
        return policy.logps(responses, source)


@pytest.mark.parametrize("source", SOURCES)
def test_the_distribution_sums_to_one_and_is_that_of_the_log_probs_of_all_responses(policy, source):
    law = policy.distribution(source).detach()
    ones = torch.ones(policy.game.contexts, dtype=torch.float64)
    torch.testing.assert_close(law.sum(-1), ones, rtol=0, atol=1e-12)
    whole = everything(policy, source)
    torch.testing.assert_close(logps(policy, whole, source).sum(-1).exp(), law)
    torch.testing.assert_close(whole.sample_logps, logps(policy, whole, source))
    assert law.dtype == torch.float64


def test_the_reference_is_the_games_and_so_is_a_fresh_policy(policy):
    torch.testing.assert_close(policy.distribution("reference"), policy.game.reference)
    fresh = type(policy)(policy.game)
    torch.testing.assert_close(fresh.distribution().detach(), policy.game.reference)
    assert (policy.distribution() - policy.game.reference).abs().max() > 0.05


def test_all_responses_are_enumerated_once_in_the_games_order(policy):
    whole = everything(policy)
    order = torch.arange(policy.game.responses)
    assert torch.equal(policy.indices(whole), order.expand(policy.game.contexts, -1))
    assert policy.text(whole) == [[str(index) for index in order.tolist()]] * policy.game.contexts


@pytest.mark.parametrize("source", [*SOURCES, "mixture"])
def test_draws_have_the_frequencies_of_the_law(policy, source):
    law = everything(policy, source, mixture=0.4).sample_logps.sum(-1).exp()
    assert_frequencies(policy.indices(draws(policy, source, mixture=0.4)), law)
    if source in SOURCES:
        torch.testing.assert_close(law, policy.distribution(source).detach())


@pytest.mark.parametrize("source", SOURCES)
def test_log_probs_of_draws_are_those_of_the_responses_they_are(policy, source):
    drawn = draws(policy, source, count=50)
    torch.testing.assert_close(drawn.sample_logps.double(), logps(policy, drawn, source), rtol=0, atol=1e-5)
    index = policy.indices(drawn)
    expected = policy.distribution(source).detach().gather(-1, index).log()
    torch.testing.assert_close(logps(policy, drawn, source).sum(-1), expected)
    whole = everything(policy)
    width = drawn.ids.shape[-1]
    for context in range(policy.game.contexts):
        assert torch.equal(drawn.mask[context], whole.mask[context, index[context], :width])
        assert torch.equal(drawn.truncated[context], whole.truncated[context, index[context]])


def test_prompts_may_come_in_any_order_and_number(policy):
    rows = [1, 0, 1]
    prompts = policy.encode([policy.game.records[row] for row in rows])
    drawn = Sampler(group_size=4).respond(policy, prompts, seed=0, iteration=0)
    whole = Sampler(group_size=4).respond(policy, policy.encode(policy.game.records), seed=0, iteration=0)
    assert torch.equal(policy.indices(drawn), policy.indices(whole)[rows])
    torch.testing.assert_close(logps(policy, drawn), logps(policy, whole)[rows])


@pytest.mark.parametrize("garbage", [0, 2])
def test_padding_and_trimming_change_nothing(policy, garbage):
    drawn = draws(policy, count=30)
    wide = replace(
        drawn,
        ids=pad(drawn.ids, (0, 3), value=garbage).masked_fill(~pad(drawn.mask, (0, 3)), garbage),
        mask=pad(drawn.mask, (0, 3)),
        sample_logps=pad(drawn.sample_logps, (0, 3)),
    )
    expected = pad(logps(policy, drawn), (0, 3))
    assert torch.equal(logps(policy, wide), expected)
    assert policy.text(wide) == policy.text(drawn)
    narrow = wide.select([0]).trim()
    assert torch.equal(logps(policy, narrow), logps(policy, drawn)[:1, :, : narrow.ids.shape[-1]])
    assert policy.text(narrow) == policy.text(drawn)[:1]
    assert (logps(policy, wide)[~wide.mask] == 0).all()


def test_gradients_of_log_probs_are_those_of_finite_differences(policy):
    responses = draws(policy, count=3)
    weights = torch.randn(responses.mask.shape, dtype=torch.float64)
    (parameter,) = policy.parameters()
    direction = torch.randn(parameter.shape, dtype=torch.float64)

    def value(step):
        with torch.no_grad():
            parameter.add_(step * direction)
            total = (policy.logps(responses) * weights).sum()
            parameter.sub_(step * direction)
        return float(total)

    (gradient,) = torch.autograd.grad((policy.logps(responses) * weights).sum(), parameter)
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-7)
    assert abs(slope) > 0.1


def test_gradients_of_log_probs_are_those_of_the_distribution(policy):
    responses = draws(policy, count=6)
    (parameter,) = policy.parameters()
    index = policy.indices(responses)
    weights = torch.randn(index.shape, dtype=torch.float64)
    (mine,) = torch.autograd.grad((policy.logps(responses).sum(-1) * weights).sum(), parameter)
    (theirs,) = torch.autograd.grad((policy.distribution().gather(-1, index).log() * weights).sum(), parameter)
    torch.testing.assert_close(mine, theirs)
    # The score has mean zero under the law.
    scores = policy.distribution().detach() * policy.logps(everything(policy)).sum(-1)
    (mean,) = torch.autograd.grad(scores.sum(), parameter)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)


def test_the_reference_neither_moves_nor_carries_a_gradient(policy):
    before = policy.distribution("reference").clone()
    responses = draws(policy, count=2)
    assert policy.logps(responses).requires_grad
    assert not policy.logps(responses, "reference").requires_grad
    with torch.no_grad():
        assert not policy.logps(responses).requires_grad
        for parameter in policy.parameters():
            parameter += 1
            parameter *= 2
    assert torch.equal(policy.distribution("reference"), before)


def test_the_weights_are_in_the_state_and_the_reference_is_not(policy):
    assert list(policy.state_dict()) == [name for name, _ in policy.named_parameters()]
    fresh = type(policy)(policy.game)
    fresh.load_state_dict(policy.state_dict())
    assert torch.equal(fresh.distribution(), policy.distribution())


def test_contexts_of_a_table_are_independent():
    some = tabular()
    some.logps(draws(some, count=2).select([1])).sum().backward()
    assert some.logits.grad[1].abs().max() > 0
    assert some.logits.grad[[0, 2, 3]].abs().max() == 0


def test_contexts_of_a_linear_policy_share_theta_inside_their_copy_only():
    some = linear()
    assert some.theta.shape == (2, 3)
    for context, copy in enumerate([0, 0, 1, 1]):
        (gradient,) = torch.autograd.grad(some.logps(draws(some, count=1).select([context])).sum(), some.theta)
        assert gradient[copy].abs().max() > 1e-3
        assert gradient[1 - copy].abs().max() == 0


def test_a_linear_policy_tilts_the_reference_by_its_features():
    some = linear()
    theta = some.theta.detach()[[0, 0, 1, 1]]
    tilt = torch.einsum("xyf,xf->xy", some.game.features, theta)
    expected = some.game.reference * tilt.exp()
    torch.testing.assert_close(some.distribution().detach(), expected / expected.sum(-1, keepdim=True))


@pytest.mark.parametrize("mixture", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("make", [tabular, linear], ids=["tabular", "linear"])
def test_for_responses_of_one_token_the_mixture_is_that_of_whole_responses(make, mixture):
    some = make()
    found = everything(some, "mixture", mixture).sample_logps.sum(-1).exp()
    laws = some.distribution().detach(), some.game.reference
    torch.testing.assert_close(found, geometric_mixture((1 - mixture, laws[0]), (mixture, laws[1])))


@pytest.mark.parametrize("mixture", [0.0, 1.0])
def test_the_ends_of_the_mixture_draw_what_policy_and_reference_draw(policy, mixture):
    end = SOURCES[int(mixture)]
    mixed, plain = draws(policy, "mixture", count=40, mixture=mixture), draws(policy, end, count=40)
    assert torch.equal(mixed.ids, plain.ids)
    assert torch.equal(mixed.mask, plain.mask)


def test_the_sampling_law_may_be_sharper_than_the_policy():
    some = tabular()
    law = (2 * some.distribution().detach().log()).softmax(-1)
    assert_frequencies(some.indices(draws(some, temperature=0.5)), law)
    greedy = some.indices(draws(some, count=3, temperature=0.0))
    assert torch.equal(greedy, some.distribution().argmax(-1)[:, None].expand(-1, 3))


@pytest.mark.parametrize("source", ["anchor", "polciy"])
def test_a_source_that_does_not_exist_is_refused(policy, source):
    with pytest.raises(ValueError, match=f"unknown source '{source}'"):
        draws(policy, source, count=1)
    with pytest.raises(ValueError, match=f"unknown source '{source}'"):
        policy.logps(draws(policy, count=1), source)


def test_the_mixture_has_no_law_of_its_own_to_score_with(policy):
    with pytest.raises(ValueError, match="unknown source 'mixture'"):
        policy.logps(draws(policy, count=1), "mixture")


def test_what_is_exported_are_the_laws(policy, tmp_path):
    policy.export(tmp_path / "model")
    laws = load_file(tmp_path / "model" / "policy.safetensors")
    assert laws.keys() == {"policy", "reference"}
    for source, law in laws.items():
        torch.testing.assert_close(law, policy.distribution(source).detach())


def test_a_game_without_features_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"LinearPolicy needs a game with features: set model\.policy\.game\.features"):
        LinearPolicy(game())


def test_a_game_with_another_number_of_responses_is_refused_in_one_line():
    with pytest.raises(ValueError, match="TreePolicy has 40 responses, the game 5"):
        TreePolicy(game())


def test_one_response_is_a_law_too():
    some = TabularPolicy(game(2, 1))
    assert some.distribution().tolist() == [[1.0], [1.0]]
    assert draws(some, count=3).ids.tolist() == [[[0], [0], [0]]] * 2


def test_prompts_are_known_by_what_they_ask():
    some = tree()
    ids = some.encode(some.game.records).record_id
    assert len(set(ids.tolist())) == some.game.contexts
    assert torch.equal(ids, tabular().encode(some.game.records).record_id)
