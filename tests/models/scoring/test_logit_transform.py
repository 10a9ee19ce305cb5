"""What a model does to its head's output is found by looking, whatever its config calls it."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lit_align.models.scoring.logit_transform import LogitTransform, in_place_of, logit_transform_of, plain_head
from tests.models.architectures import ARCHITECTURES, make

EXPECTED = {
    "llama, tied": LogitTransform(),
    "llama, apart": LogitTransform(),
    "phi, bias": LogitTransform(),
    "gemma2, capped": LogitTransform(1.0, 3.0),
    "gemma2, windows": LogitTransform(1.0, 30.0),
    "mistral, window": LogitTransform(),
    "cohere, scaled": LogitTransform(0.25),
    "granite, divided": LogitTransform(0.25),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_and_caps_are_found(name, dtype):
    found = logit_transform_of(make(name, dtype))
    assert found is not None
    assert (found.scale, found.cap) == pytest.approx((EXPECTED[name].scale, EXPECTED[name].cap), rel=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_turns_the_heads_output_into_the_models_logits(name):
    model = make(name, torch.float32)
    outputs = []
    handle = model.get_output_embeddings().register_forward_hook(lambda head, inputs, output: outputs.append(output))
    logits = model(torch.tensor([[1, 9, 12, 7]])).logits
    handle.remove()
    transform = logit_transform_of(model)
    torch.testing.assert_close(transform(outputs[0][0]), logits[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.3), LogitTransform(1.5, 2.0)])
def test_the_slope_is_the_derivative(transform):
    x = torch.linspace(-5, 5, 21, dtype=torch.float64, requires_grad=True)
    logits = transform(x[None])
    (expected,) = torch.autograd.grad(logits.sum(), x)
    torch.testing.assert_close(expected.new_zeros(1, 21) + transform.slope(logits), expected[None])


class Odd(nn.Module):
    """A model whose logits are no scale or cap of what its head says."""

    def __init__(self, after) -> None:
        super().__init__()
        self.head = nn.Linear(4, 6)
        self.after = after

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, **options):
        return type("Output", (), {"logits": self.after(self.head(torch.ones(*input_ids.shape, 4)))})


@pytest.mark.parametrize(
    "after", [lambda x: x - 1, lambda x: x**3, lambda x: x.relu(), lambda x: -x, lambda x: x[..., :2]]
)
def test_a_function_of_another_kind_is_none(after):
    assert logit_transform_of(Odd(after)) is None


def test_a_head_with_an_adapter_is_none_and_one_under_adapters_is_plain():
    options = {"r": 2, "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(make("llama, apart"), LoraConfig(target_modules=["q_proj", "lm_head"], **options))
    assert plain_head(adapted) is None
    assert logit_transform_of(adapted) is None
    kept = get_peft_model(
        make("llama, apart"), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **options)
    )
    assert logit_transform_of(kept) is None
    below = get_peft_model(make("llama, tied"), LoraConfig(target_modules=["q_proj"], **options))
    assert logit_transform_of(below) == LogitTransform(1.0, math.inf)


@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_neither_the_mode_nor_the_head_nor_the_random_numbers(training):
    model = get_peft_model(
        make("llama, tied"), LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")
    ).train(training)
    head, state = model.get_output_embeddings(), torch.get_rng_state()
    assert logit_transform_of(model) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert "forward" not in vars(head)
    assert all(part.training == training for part in model.modules())


def test_the_head_is_itself_again_even_after_an_error():
    head = nn.Linear(3, 5)
    with pytest.raises(ZeroDivisionError), in_place_of(head, lambda hidden: 1 / 0):
        head(torch.ones(1, 3))
    assert head(torch.ones(1, 3)).shape == (1, 5)
