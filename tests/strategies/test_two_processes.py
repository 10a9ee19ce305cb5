"""The helper of these tests: two processes, each knowing its place."""

import os

import pytest
import torch

from tests.strategies.two_processes import on_two_processes


def sum_over_ranks(mine):
    torch.distributed.init_process_group("gloo")
    total = torch.tensor(float(mine + torch.distributed.get_rank()))
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return int(os.environ["RANK"]), float(total)


def fail_on_rank_one():
    if os.environ["RANK"] == "1":
        raise ValueError("rank 1 is out of sorts")


def test_each_process_knows_its_rank_and_they_talk_to_one_another():
    assert on_two_processes(sum_over_ranks, 10) == [(0, 21.0), (1, 21.0)]


def test_what_one_process_raises_is_raised_here():
    with pytest.raises(Exception, match="rank 1 is out of sorts"):
        on_two_processes(fail_on_rank_one)
