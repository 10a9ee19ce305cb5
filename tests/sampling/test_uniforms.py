"""Random numbers behind each token: a function of five coordinates and nothing else, and uniform."""

import itertools

import torch

from lit_align.sampling.uniforms import mixed_seed, token_uniforms

IDS = torch.tensor([17, 2**62 + 5, 0, 123_456_789])


def uniforms(ids=IDS, group=4, length=8, seed=1, iteration=2):
    return token_uniforms(ids, group, length, seed=seed, iteration=iteration)


def test_a_prompts_numbers_do_not_depend_on_the_batch_it_is_in():
    whole, order = uniforms(), [2, 0, 3, 1]
    assert torch.equal(uniforms(IDS[order]), whole[order])
    for row in range(len(IDS)):
        assert torch.equal(uniforms(IDS[row : row + 1])[0], whole[row])


def test_a_larger_group_or_longer_response_only_adds_numbers():
    assert torch.equal(uniforms(group=9)[:, :4], uniforms())
    assert torch.equal(uniforms(length=20)[..., :8], uniforms())


def test_every_coordinate_matters():
    base = uniforms()
    for other in (uniforms(seed=2), uniforms(iteration=3), uniforms(IDS + 1)):
        assert (base != other).float().mean() > 0.99
    assert len(base.unique()) == base.numel()


def test_swapping_two_coordinates_gives_other_numbers():
    ids = torch.tensor([1, 2])
    tables = [uniforms(ids, 3, 3, seed=s, iteration=i) for s, i in itertools.permutations((1, 2, 3), 2)]
    values = torch.stack(tables).flatten()
    assert len(values.unique()) == len(values)
    assert not torch.equal(tables[0][0], tables[0][0].T)


def test_numbers_are_uniform_on_the_unit_interval_one_excluded():
    values = token_uniforms(torch.arange(64), 8, 64, seed=0, iteration=0)
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() < 1
    ordered = values.flatten().double().sort().values
    grid = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (ordered - grid).abs().max() * len(ordered) ** 0.5 < 1.63  # Kolmogorov-Smirnov, 1 %


def test_neighbours_along_every_axis_are_uncorrelated():
    values = token_uniforms(torch.arange(64), 8, 64, seed=0, iteration=0).double() - 0.5
    for axis in range(3):
        first, second = values.narrow(axis, 0, values.shape[axis] - 1), values.narrow(axis, 1, values.shape[axis] - 1)
        correlation = (first * second).mean() * 12
        assert correlation.abs() < 4 / first.numel() ** 0.5


def test_mixed_seeds_differ_in_every_part_and_in_order():
    seeds = {mixed_seed(*parts) for parts in itertools.product(range(6), repeat=3)}
    assert len(seeds) == 6**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed(1, 2) != mixed_seed(2, 1)


def test_numbers_are_those_of_splitmix64_in_exact_integers_so_the_same_on_every_machine():
    def absorb(key, value):
        x = (key + (value + 1) * 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    values = uniforms(IDS, 2, 3, seed=2**40, iteration=5)
    for row, slot, position in itertools.product(range(4), range(2), range(3)):
        key = 0
        for value in (2**40, 5, int(IDS[row]), slot, position):
            key = absorb(key, value)
        assert values[row, slot, position].item() * 2**24 == key >> 40
