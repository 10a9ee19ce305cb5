"""Units of rounding: steps from a number to the next one."""

import pytest
import torch

from tests.rounding import assert_same_but_rounding, steps_apart, steps_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1.5, 0.1, 5.0, 1000.0])
def test_a_step_leads_to_the_next_number(dtype, size):
    number = torch.tensor(size, dtype=dtype)
    following = torch.nextafter(number, torch.tensor(torch.inf, dtype=dtype))
    assert float(following) - float(number) == steps_of(dtype, float(number))
    assert steps_apart(following.double(), number.double(), dtype) == 1


def test_tensors_may_be_so_many_steps_apart_at_the_size_of_the_largest_number():
    expected = torch.tensor([1e-6, 5.0])
    near, far = (expected + torch.tensor([steps_of(torch.float32, 5.0, steps), 0.0]) for steps in (3.9, 4.1))
    assert_same_but_rounding(near, expected, steps=4)
    with pytest.raises(AssertionError, match="weight"):
        assert_same_but_rounding(far, expected, steps=4, name="weight")


@pytest.mark.parametrize("expected", [torch.zeros(2), torch.zeros(0), torch.tensor([3, 4])], ids=str)
def test_what_does_not_round_is_the_same(expected):
    assert_same_but_rounding(expected.clone(), expected)
    if len(expected):
        with pytest.raises(AssertionError):
            assert_same_but_rounding(expected + 1, expected)
