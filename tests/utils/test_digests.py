"""Digests are equal where things are, and differ where one bit does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_align.utils.digests import folder_digest, hub_commit, model_digest, text_digest, weights_digest

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(place=st.integers(0, 59), bit=st.integers(0, 7))
def test_any_bit_of_any_weight_counts(dtype, place, bit):
    weights = torch.arange(60).to(dtype).view(3, 20)
    changed = weights.clone()
    view = changed.view(torch.uint8).flatten()
    at = place * dtype.itemsize % len(view)
    view[at] ^= 1 << bit
    assert weights_digest([("a", weights)]) == weights_digest([("a", weights.clone())])
    assert weights_digest([("a", weights)]) != weights_digest([("a", changed)])


def test_names_shapes_and_order_count():
    weights = torch.ones(4)
    seen = [
        weights_digest(named)
        for named in (
            [],
            [("a", weights)],
            [("b", weights)],
            [("a", weights.view(2, 2))],
            [("a", weights), ("b", weights * 2)],
            [("b", weights * 2), ("a", weights)],
            [("a", weights.bfloat16())],
        )
    ]
    assert len(set(seen)) == len(seen)


def test_pieces_and_strides_do_not_count():
    weights = torch.randn(30, 7)
    whole = weights_digest([("a", weights)])
    assert weights_digest([("a", weights)], at_once=13) == whole
    assert weights_digest([("a", weights.T.contiguous().T)], at_once=13) == whole
    assert weights_digest([("a", torch.nn.Parameter(weights))], at_once=13) == whole


def test_where_a_text_ends_counts():
    assert text_digest("ab", "c") != text_digest("a", "bc")
    assert text_digest("ab", "c") == text_digest("ab", "c")


def test_a_folder_is_told_by_its_weights_and_configuration(tmp_path):
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(bytes(range(256)) * 4096)
    config.write_text("{}")
    seen = [folder_digest(tmp_path)]
    (tmp_path / "README.md").write_text("nothing")
    assert folder_digest(tmp_path) == seen[0]
    weights.write_bytes(bytes(range(1, 257 - 1)) * 4096)
    seen.append(folder_digest(tmp_path))
    config.write_text("{ }")
    seen.append(folder_digest(tmp_path))
    weights.rename(tmp_path / "other.safetensors")
    seen.append(folder_digest(tmp_path))
    assert len(set(seen)) == len(seen)


def test_a_model_is_told_by_its_tokenizer_too(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    seen = [model_digest(str(tmp_path))]
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer.model", "modeling_own.py"):
        (tmp_path / name).write_text("{}")
        seen.append(model_digest(str(tmp_path)))
    assert len(set(seen)) == len(seen)
    (tmp_path / "README.md").write_text("nothing")
    assert model_digest(str(tmp_path)) == seen[-1]


def test_the_commit_of_a_hub_id_is_the_one_its_branch_points_to_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, commits = tmp_path / "models--someone--something", {"main": "0" * 40, "other": "1" * 40}
    (folder / "refs").mkdir(parents=True)
    for branch, commit in commits.items():
        (folder / "refs" / branch).write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
    for revision, commit in {None: "0" * 40, **commits, "1" * 40: "1" * 40}.items():
        assert hub_commit("someone/something", revision) == commit
