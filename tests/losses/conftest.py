"""Laws of losses are checked in float64."""

import pytest
import torch


@pytest.fixture
def double():
    """Tensors are made in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
