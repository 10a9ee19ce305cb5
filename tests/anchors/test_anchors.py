"""Anchors: the closed form of every rule, exact restoration, going on from a checkpoint, what momentum is between."""

import io

import pytest
import torch

from lit_align import Extrapolated, Initial, LanguageModel, LoRA, MovingAverage, Previous
from lit_align.games import extrapolate
from lit_align.games.policies import LinearPolicy, TabularPolicy
from tests.games.instances import generator
from tests.games.playing import MLPPolicy, everything, game

RULES = {
    "previous": Previous,
    "previous of every second": lambda: Previous(every=2),
    "initial": Initial,
    "moving average": lambda: MovingAverage(0.3),
    "extrapolated": lambda: Extrapolated(0.6),
}
RATES = [0.02, 0.5, 1.0]


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def rule(request):
    return request.param


def policy():
    return TabularPolicy(game())


@torch.no_grad()
def train(policy, iteration, size=0.5):
    """What an iteration of training might do to the weights."""
    for parameter in policy.parameters():
        parameter += size * torch.randn(parameter.shape, dtype=torch.float64, generator=generator(iteration))


def law(anchor, policy):
    """pi_t as the anchor scores it, a law over the responses."""
    with torch.no_grad():
        return anchor.logps(policy, everything(policy)).sum(-1).exp()


def run(anchor, policy, iterations=range(6)):
    """Iterates as each iteration begins, and the laws of their anchors."""
    iterates, anchors = [], []
    for iteration in iterations:
        iterates.append(policy.logits.detach().clone())
        anchor.begin(policy, iteration)
        anchors.append(law(anchor, policy))
        train(policy, iteration)
    return iterates, anchors


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("every", [1, 2, 3])
def test_previous_is_the_iterate_of_the_last_move(every):
    iterates, anchors = run(Previous(every), policy())
    for iteration, found in enumerate(anchors):
        torch.testing.assert_close(found, iterates[iteration - iteration % every].softmax(-1))
    assert len({float(found[0, 0]) for found in anchors}) == -(-6 // every)


def test_initial_is_the_reference_throughout():
    some = policy()
    _, anchors = run(Initial(), some)
    for found in anchors:
        torch.testing.assert_close(found, some.game.reference)


@pytest.mark.parametrize("rate", RATES)
def test_the_moving_average_has_geometric_weights_on_the_iterates(rate):
    iterates, anchors = run(MovingAverage(rate), policy())
    for now, found in enumerate(anchors):
        weights = [(1 - rate) ** now, *(rate * (1 - rate) ** (now - then) for then in range(1, now + 1))]
        assert sum(weights) == pytest.approx(1)
        average = sum(weight * iterate for weight, iterate in zip(weights, iterates, strict=False))
        torch.testing.assert_close(found, average.softmax(-1))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_extrapolated_adds_the_momentum_between_iterates_and_not_from_the_extrapolated_point(alpha):
    some = policy()
    anchor = Extrapolated(alpha)
    iterates, points = [], []
    for iteration in range(5):
        iterates.append(some.logits.detach().clone())
        anchor.begin(some, iteration)
        points.append(some.logits.detach().clone())
        torch.testing.assert_close(law(anchor, some), points[-1].softmax(-1))
        before = iterates[max(iteration - 1, 0)]
        torch.testing.assert_close(points[-1], iterates[-1] + alpha * (iterates[-1] - before), rtol=0, atol=1e-12)
        if alpha and iteration > 1:
            other = iterates[-1] + alpha * (iterates[-1] - points[-2])
            assert (points[-1] - other).abs().max() > 1e-2
        train(some, iteration)


def test_with_neither_delay_nor_momentum_all_moving_rules_are_the_previous_iterate():
    _, expected = run(Previous(), policy())
    for rule in (Previous(1), MovingAverage(1.0), Extrapolated(0.0)):
        _, found = run(rule, policy())
        torch.testing.assert_close(torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, float("nan")])
def test_momentum_outside_its_range_is_refused(bad):
    with pytest.raises(ValueError, match=r"model\.anchor\.alpha must lie in \[0, 1\), got"):
        Extrapolated(bad)


@pytest.mark.parametrize("bad", [-0.1, 0.0, 1.5, float("nan")])
def test_a_rate_outside_its_range_is_refused(bad):
    with pytest.raises(ValueError, match=r"model\.anchor\.rate must lie in \(0, 1\], got"):
        MovingAverage(bad)


def test_an_anchor_that_moves_every_zero_iterations_is_refused():
    with pytest.raises(ValueError, match=r"model\.anchor\.every must be >= 1, got 0"):
        Previous(0)


# ------------------------------------------------------------------ begin, applied, state


def test_beginning_an_iteration_twice_is_beginning_it_once(rule):
    once, twice = (rule(), policy()), (rule(), policy())
    for iteration in range(4):
        once[0].begin(once[1], iteration)
        for _ in range(3):
            twice[0].begin(twice[1], iteration)
        assert torch.equal(twice[1].logits, once[1].logits)
        assert torch.equal(law(*twice), law(*once))
        train(once[1], iteration)
        train(twice[1], iteration)


def test_a_second_begin_after_training_still_moves_nothing(rule):
    anchor, some = rule(), policy()
    run(anchor, some, range(3))
    weights = some.logits.detach().clone()
    expected = None if anchor.is_policy else law(anchor, some)
    anchor.begin(some, 2)
    assert torch.equal(some.logits, weights)
    if expected is not None:
        assert torch.equal(law(anchor, some), expected)


def test_the_policy_is_the_anchor_as_training_begins_exactly_where_the_rule_says_so(rule):
    anchor, some = rule(), policy()
    run(anchor, some, range(3))
    anchor.begin(some, 3)
    same = torch.allclose(law(anchor, some), some.logits.detach().softmax(-1), rtol=0, atol=1e-12)
    assert same == anchor.is_policy


@pytest.mark.parametrize("fails", [False, True])
def test_being_applied_leaves_the_very_weights_that_the_optimiser_owns(rule, fails):
    anchor, some = rule(), policy()
    optimizer = torch.optim.Adam(some.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        (some.distribution() * some.game.rewards).sum().backward()
        optimizer.step()

    for iteration in range(3):
        anchor.begin(some, iteration)
        step()
    before, values, address = list(some.parameters()), some.logits.detach().clone(), some.logits.data_ptr()
    gradient = some.logits.grad.clone()
    law_before = law(anchor, some)
    try:
        with anchor.applied(some):
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert all(after is parameter for after, parameter in zip(some.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["params"][0] is some.logits
    assert torch.equal(some.logits, values)
    assert some.logits.data_ptr() == address
    assert torch.equal(some.logits.grad, gradient)
    step()
    assert (some.logits - values).abs().max() > 1e-3
    if not anchor.is_policy:
        assert torch.equal(law(anchor, some), law_before)  # no memory is shared with what trains


def test_scoring_under_the_anchor_is_sampling_from_it(rule):
    anchor, some = rule(), policy()
    run(anchor, some, range(4))
    with anchor.applied(some) as source, torch.no_grad():
        answered = some.distribution(source)
    torch.testing.assert_close(answered, law(anchor, some))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_rule_taken_up_from_a_checkpoint_goes_on_as_if_it_had_never_stopped(rule, stop):
    _, expected = run(rule(), policy(), range(6))
    anchor, some = rule(), policy()
    run(anchor, some, range(stop))
    file = io.BytesIO()
    torch.save({"anchor": anchor.state_dict(), "policy": some.state_dict()}, file)
    train(some, 99)  # what goes on in the old run does not reach the file
    anchor.begin(some, stop)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh, again = rule(), policy()
    again.load_state_dict(saved["policy"])
    fresh.load_state_dict(saved["anchor"])
    _, found = run(fresh, again, range(stop, 6))
    assert all(torch.equal(one, other) for one, other in zip(found, expected[stop:], strict=True))


def test_frozen_weights_are_neither_copied_nor_moved():
    some = LinearPolicy(game(features=2))
    some.frozen = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64), requires_grad=False)
    for anchor in (Previous(2), MovingAverage(0.5), Extrapolated(0.5)):
        anchor.begin(some, 0)
        some.frozen.add_(1)
        before = some.frozen.clone()
        anchor.begin(some, 1)
        with anchor.applied(some):
            assert torch.equal(some.frozen, before)
        assert torch.equal(some.frozen, before)
        assert list(anchor.state_dict()["weights"]) == ["theta"]


# ------------------------------------------------------------------ momentum in parameters and in probabilities


@pytest.mark.parametrize(
    "make", [lambda: TabularPolicy(game()), lambda: LinearPolicy(game(features=3))], ids=["tabular", "linear"]
)
@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_A10_adding_weights_is_multiplying_probabilities_in_softmax_linear_policies(make, alpha):
    some, anchor, laws = make(), Extrapolated(alpha), []
    for iteration in range(4):
        laws.append(some.distribution().detach())
        anchor.begin(some, iteration)
        if iteration:
            found = some.distribution().detach()
            torch.testing.assert_close(found, extrapolate(laws[-1], laws[-2], alpha=alpha), rtol=0, atol=1e-12)
            assert (found - laws[-1]).abs().max() > 1e-2
        train(some, iteration)


def test_A10_elsewhere_the_difference_is_of_second_order_in_the_step():
    def error(step, alpha=0.5):
        some, anchor = MLPPolicy(game(features=3)), Extrapolated(alpha)
        train(some, 7)
        previous = some.distribution().detach()
        anchor.begin(some, 0)
        train(some, 0, size=step)
        new = some.distribution().detach()
        anchor.begin(some, 1)
        found = some.distribution().detach()
        return float((found.log() - extrapolate(new, previous, alpha=alpha).log()).abs().max())

    errors = [error(0.02 / 2**halvings) for halvings in range(4)]
    ratios = [errors[i] / errors[i + 1] for i in range(3)]
    assert errors[0] > 1e-4
    assert ratios == pytest.approx([4] * 3, rel=0.02)


def test_with_adapters_the_momentum_is_that_of_the_networks_weights(tiny_model):
    model, alpha = LanguageModel(tiny_model, lora=LoRA(rank=2)), 0.5
    model.load()

    def network():
        """Every adapted layer's update, whatever it is made of."""
        inputs = {name: torch.eye(layer.in_features) for name, layer in layers.items()}
        return {name: layer(inputs[name]) - layer.base_layer(inputs[name]) for name, layer in layers.items()}

    layers = {name: module for name, module in model.model.named_modules() if hasattr(module, "lora_A")}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shapes = [parameter.shape for parameter in trained]
    anchor, iterates = Extrapolated(alpha), []
    with torch.no_grad():
        for iteration in range(4):
            iterates.append(network())
            factors = [parameter.clone() for parameter in trained]
            anchor.begin(model, iteration)
            new, old, point = iterates[-1], iterates[max(iteration - 1, 0)], network()
            for name in layers:
                torch.testing.assert_close(point[name], new[name] + alpha * (new[name] - old[name]), rtol=0, atol=1e-4)
                assert iteration == 0 or (point[name] - new[name]).abs().max() > 1e-2
            assert all(torch.equal(one, other) for one, other in zip(trained, factors, strict=True))
            for parameter in trained:
                parameter += 0.2 * torch.randn_like(parameter)
    assert [parameter.shape for parameter in trained] == shapes


def test_extrapolating_the_factors_of_a_product_is_not_extrapolating_the_product():
    class Factors(TabularPolicy):
        """Logits that are a product of factors, as an adapter's update is."""

        def __init__(self, game):
            super().__init__(game)
            del self.logits
            self.up = torch.nn.Parameter(torch.randn(game.contexts, 2, dtype=torch.float64))
            self.down = torch.nn.Parameter(torch.zeros(2, game.responses, dtype=torch.float64))

        def table(self, source):
            update = self.up @ self.down if source == "policy" else 0
            return (self.game.reference.log() + update).log_softmax(-1)[:, None]

    some, anchor, alpha = Factors(game()), Extrapolated(0.5), 0.5
    train(some, 5)
    previous = some.up.detach() @ some.down.detach()
    anchor.begin(some, 0)
    train(some, 0)
    new = some.up.detach() @ some.down.detach()
    anchor.begin(some, 1)
    added = some.up.detach() @ some.down.detach()
    product = new + alpha * (new - previous)
    assert (added - product).norm() / product.norm() > 0.05


def test_what_says_how_rollouts_were_scored_is_what_older_runs_have_written():
    assert [name for name in sorted(vars(Previous())) if not name.startswith("_")] == ["every", "is_policy"]
    assert (Previous().copies, Previous(every=2).copies, MovingAverage().copies, Extrapolated().copies) == (0, 1, 1, 1)
