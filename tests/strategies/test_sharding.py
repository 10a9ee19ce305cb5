"""A policy in shards is the same policy, and while it is gathered no rank needs another."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import MixedPrecision

from lit_align import RandomGame, TabularPolicy
from lit_align.models.sharding.cut import check_takes_shards, sharding
from lit_align.models.sharding.gather import full_state, gathered, piece, plain_name, trainable
from tests.draws import same_draws
from tests.rounding import AGAIN, TRAINED, steps_of
from tests.strategies.sharded import CASES, all_seen, loaded
from tests.strategies.two_processes import on_two_processes


@pytest.fixture(scope="module")
def ranks(tiny_model, tmp_path_factory):
    return on_two_processes(all_seen, tiny_model, tmp_path_factory.mktemp("shards"))


@pytest.fixture(
    params=[pytest.param(case, marks=pytest.mark.slow) for case in CASES],
    ids=[f"{name}, FSDP{1 if flat else 2}" for name, flat in CASES],
)
def seen(request, ranks):
    first, second = ranks
    return request.param[0], first[request.param], second[request.param]


def test_responses_are_those_of_the_whole_policy(seen):
    name, _, second = seen
    first_round, after_a_step = second.draws
    same_draws(*first_round, within=steps_of(torch.float32, 4, AGAIN))
    if "bfloat16" not in name:  # where minibatches of other prompts round to other weights
        same_draws(*after_a_step, within=steps_of(torch.float32, 4, TRAINED))


def test_policy_reference_and_anchor_say_what_the_whole_ones_say(seen):
    name, first, second = seen
    rounding = steps_of(torch.bfloat16, 4, 8) if "bfloat16" in name else steps_of(torch.float32, 4, TRAINED)
    assert torch.tensor([first.gaps, second.gaps]).max() < rounding


def test_nothing_is_asked_of_other_ranks_while_sampling_and_scoring(seen):
    _, first, second = seen
    for entered, inside in (*first.gathers, *second.gathers):
        assert entered > 0
        assert inside == 0


def test_clipped_steps_lead_to_the_weights_of_the_whole_policy(seen):
    name, first, _ = seen
    assert first.moved > 1e-3
    assert first.weights < (0.2 * first.moved if "bfloat16" in name else steps_of(torch.float32, 1, AGAIN))


def test_each_rank_holds_its_share_of_policy_and_reference_once_a_phase_is_over(seen):
    _, first, second = seen
    assert first.held + second.held == pytest.approx(1, abs=0.01)
    assert first.held == pytest.approx(second.held, abs=0.05)


def test_what_is_exported_is_the_whole_model(seen):
    name, first, _ = seen
    assert first.exported <= (2 if "bfloat16" in name else AGAIN)


def test_a_policy_on_one_device_is_whole_already(tiny_model):
    policy = loaded(tiny_model, "lora")
    before = {name: parameter.clone() for name, parameter in trainable(policy)}
    with policy.gathered(), gathered(policy):
        for name, parameter in trainable(policy):
            assert torch.equal(parameter, before[name])
            assert piece(parameter).data_ptr() == parameter.data_ptr()
    assert full_state(policy, frozen=False).keys() == before.keys()
    assert len(full_state(policy)) > len(before)


def test_names_do_not_tell_how_weights_are_kept():
    assert plain_name("model._fsdp_wrapped_module.layers.0._fsdp_wrapped_module.up") == "model.layers.0.up"


def test_an_exact_policy_is_not_sharded():
    with pytest.raises(ValueError, match=r"TabularPolicy cannot be sharded: set trainer\.strategy to auto or ddp"):
        TabularPolicy(RandomGame(responses=2)).shard(lambda network: network)


def test_strategies_that_keep_whole_weights_cut_nothing():
    assert sharding(DDPStrategy()) is None


def test_layers_are_not_split():
    with pytest.raises(ValueError, match="tensor_parallel_size is 4: layers are not split; set it to 1"):
        sharding(SplitLayers())


def test_fsdp1_does_not_round_by_rules_of_its_own():
    with pytest.raises(ValueError, match=r"trainer\.strategy\.mixed_precision"):
        sharding(FSDPStrategy(mixed_precision=MixedPrecision(param_dtype=torch.bfloat16)))


def test_an_optimiser_that_knows_no_shards_is_refused():
    from bitsandbytes.optim import PagedAdamW8bit

    with pytest.raises(ValueError, match="PagedAdamW8bit keeps its state of whole weights"):
        check_takes_shards(lambda parameters: PagedAdamW8bit(parameters, lr=0.1))
    check_takes_shards(lambda parameters: torch.optim.AdamW(parameters, lr=0.1))


class SplitLayers(ModelParallelStrategy):
    """Four ranks that share every layer."""

    @property
    def device_mesh(self):
        return Mesh({"data_parallel": 1, "tensor_parallel": 4})


class Mesh(dict):
    """The sizes of a mesh that no process is part of."""

    def __getitem__(self, name):
        return SimpleNamespace(size=lambda: self.get(name))

    def size(self):
        return 4
