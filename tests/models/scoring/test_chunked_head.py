"""Log-probabilities taken chunk by chunk are those of all logits at once, and so are their gradients."""

import math
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F

from lit_align.models.scoring.chunked_head import head_token_logps
from lit_align.models.scoring.logit_transform import LogitTransform

TOKENS, WIDTH, VOCABULARY = 11, 6, 17
TRANSFORMS = {
    "plain": LogitTransform(),
    "scaled": LogitTransform(0.3),
    "capped": LogitTransform(1.0, 2.0),
    "both": LogitTransform(1.7, 3.0),
}


at_a_time = pytest.mark.parametrize("tokens", [1, 4, 100], ids=lambda tokens: f"{tokens} tokens at once")


def instance(dtype=torch.float32, *, bias=True, trained=True):
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=trained)
    offset = torch.randn(VOCABULARY, dtype=dtype, requires_grad=trained) if bias else None
    targets = torch.randint(VOCABULARY, (TOKENS,))
    targets[1] = targets[0]
    return hidden, weight, offset, targets


def at_once(hidden, weight, bias, targets, transform):
    logits = F.linear(hidden, weight, bias).float() * transform.scale
    if transform.cap != math.inf:
        logits = transform.cap * torch.tanh(logits / transform.cap)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@at_a_time
@pytest.mark.parametrize("trained", [True, False], ids=["trained head", "frozen head"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_values_and_gradients_are_those_of_all_logits_at_once(transform, bias, trained, tokens):
    inputs = instance(bias=bias, trained=trained)
    found, expected = (
        head_token_logps(*inputs, transform, logits_at_once=tokens * VOCABULARY),
        at_once(*inputs, transform),
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(TOKENS)
    learning = [tensor for tensor in inputs[:3] if tensor is not None and tensor.requires_grad]
    assert len(learning) == 1 + trained * (1 + bias)
    mine, theirs = (torch.autograd.grad(values, learning, upstream) for values in (found, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_a_token_without_weight_has_no_gradient(trained):
    hidden, *rest = instance(trained=trained)
    upstream = torch.ones(TOKENS)
    upstream[3] = 0
    (found,) = torch.autograd.grad(head_token_logps(hidden, *rest, LogitTransform()), hidden, upstream)
    assert (found[3] == 0).all()
    assert (found[[2, 4]] != 0).all()


def test_a_head_that_trains_alone_has_its_gradient():
    hidden, weight, bias, targets = instance()
    still = hidden.detach()
    upstream = torch.randn(TOKENS)
    mine, theirs = (
        torch.autograd.grad(way(still, weight, bias, targets, LogitTransform()), [weight, bias], upstream)
        for way in (head_token_logps, at_once)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_logits_of_any_size_give_finite_values_and_gradients(trained):
    hidden, weight, bias, targets = instance(trained=trained)
    found = head_token_logps(hidden * 1e4, weight, bias, targets, LogitTransform())
    assert found.isfinite().all()
    assert found.min() < -1e4
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("trained", [True, False])
def test_half_precision_takes_the_log_sum_exp_in_full(trained):
    inputs = instance(torch.bfloat16, trained=trained)
    found, expected = head_token_logps(*inputs, LogitTransform()), at_once(*inputs, LogitTransform())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    learning = [tensor for tensor in inputs[:3] if tensor.requires_grad]
    mine, theirs = (torch.autograd.grad(values.sum(), learning) for values in (found, expected))
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("trained", [True, False])
def test_under_autocast_numbers_are_those_of_a_plain_head_there(trained):
    inputs = instance(trained=trained)
    learning = [tensor for tensor in inputs[:3] if tensor.requires_grad]
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = head_token_logps(*inputs, LogitTransform()), at_once(*inputs, LogitTransform())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    mine, theirs = (torch.autograd.grad(values.sum(), learning) for values in (found, expected))
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("trained", [True, False])
def test_the_logits_of_one_chunk_at_most_are_kept_for_the_backward_pass(trained):
    inputs = instance(trained=trained)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda x: x):
        found = head_token_logps(*inputs, LogitTransform(), logits_at_once=4 * VOCABULARY)
    assert (TOKENS, VOCABULARY) not in kept
    assert (TOKENS, WIDTH) in kept
    assert ((VOCABULARY, WIDTH) in kept) == trained
    assert (found.grad_fn.waiting is not None) == trained
    if trained:
        assert found.grad_fn.waiting[0].shape == (4, VOCABULARY)
    found.sum().backward(retain_graph=True)
    assert found.grad_fn.waiting is None


@at_a_time
def test_logits_that_waited_are_used_once_and_a_second_backward_pass_is_the_same(tokens):
    hidden, weight, *rest = instance()
    found = head_token_logps(hidden, weight, *rest, LogitTransform(), logits_at_once=tokens * VOCABULARY)
    upstream = torch.randn(TOKENS)
    first, second = (torch.autograd.grad(found, [hidden, weight], upstream, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@dataclass(frozen=True)
class Watched(LogitTransform):
    """Remembers how many tokens it was given logits of, each time."""

    sizes: list[int] = field(default_factory=list)

    def __call__(self, output):
        self.sizes.append(len(output))
        return super().__call__(output)


@pytest.mark.parametrize("trained", [True, False])
def test_chunks_are_as_few_as_memory_allows_and_of_equal_size(trained):
    hidden, weight, bias, targets = instance(trained=trained)
    readout, tokens = Watched(), TOKENS * 30
    inputs = hidden.repeat(30, 1), weight, bias, targets.repeat(30)
    found = head_token_logps(*inputs, readout, logits_at_once=100 * VOCABULARY)
    sizes = list(readout.sizes)
    assert sum(sizes) == tokens
    assert len(sizes) == 4
    assert max(sizes) - min(sizes) < len(sizes)
    found.sum().backward()
    assert readout.sizes[4:] == (sizes[-2::-1] if trained else [])  # the last one's logits have waited
