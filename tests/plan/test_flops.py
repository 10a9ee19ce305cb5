"""The work that is counted is what torch counts, where nothing is padded and attention is left out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_align import LanguageModel, LoRA
from lit_align.plan.flops import peak, work_of
from lit_align.types import Prompts, Responses

PRODUCTS = {"mm", "addmm", "bmm"}


@pytest.fixture
def responses():
    """Two prompts of 5 tokens with one response of 4 each: no padding anywhere."""
    prompts = Prompts(
        torch.randint(3, 28, (2, 5)), torch.ones(2, 5, dtype=torch.bool), torch.arange(2), [{"prompt": "a"}] * 2
    )
    ids = torch.randint(3, 28, (2, 1, 4))
    ones = torch.ones_like(ids, dtype=torch.bool)
    return Responses(prompts, ids, ones, torch.zeros(2, 1, dtype=torch.bool), torch.zeros(2, 1, 4))


def counted(function):
    """Operations of matrix products outside attention."""
    with FlopCounterMode(display=False) as counter:
        function()
    kinds = counter.get_flop_counts()["Global"]
    return sum(count for kind, count in kinds.items() if str(kind).split(".")[-1] in PRODUCTS)


def loaded(name, lora=None):
    policy = LanguageModel(name, lora=lora)
    policy.load()
    return policy, work_of(policy.model, policy.model.get_output_embeddings())


def plain(policy, responses):
    """The logits of response tokens, as transformers computes them."""
    ids = torch.cat([responses.prompts.ids, responses.ids[:, 0, :-1]], dim=1)
    return policy.model(ids, logits_to_keep=responses.ids.shape[-1]).logits


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "lora"])
def test_the_work_of_scoring_is_that_of_the_products_of_a_plain_forward_pass(tiny_model, responses, lora):
    policy, work = loaded(tiny_model, lora)
    with torch.no_grad():
        assert counted(lambda: plain(policy, responses)) == work.scoring(responses) == work.sampling(responses)


def test_training_all_weights_takes_six_operations_a_weight_and_token(tiny_model, responses):
    policy, work = loaded(tiny_model)
    assert work.forward + work.backward == 3 * work.forward
    assert counted(lambda: plain(policy, responses).sum().backward()) == work.training(responses)


def test_adapters_on_the_upper_layers_need_no_gradients_below_them(tiny_model, responses):
    """But for the products that are parallel in the first of those layers, as small as they are here."""
    policy, work = loaded(tiny_model, LoRA(rank=4, layers=[1]))
    policy.model.train()
    found = counted(lambda: plain(policy, responses).sum().backward())
    assert 0.85 < found / work.training(responses) <= 1
    everywhere = loaded(tiny_model, LoRA(rank=4))[1]
    assert work.backward < 0.6 * everywhere.backward


def test_a_second_response_to_a_prompt_reads_it_no_second_time(tiny_model, responses):
    _, work = loaded(tiny_model)
    columns = {name: getattr(responses, name).repeat_interleave(2, dim=1) for name in ("ids", "mask", "truncated")}
    both = Responses(responses.prompts, **columns, sample_logps=responses.sample_logps.repeat_interleave(2, dim=1))
    added = 2 * (3 * work.forward + 4 * work.head)  # two responses of four tokens, the last of which is not read
    assert work.scoring(both) == work.scoring(responses) + added


def test_the_peak_is_positive_and_finite():
    assert 1e6 < peak(torch.float32, torch.device("cpu")) < 1e18
