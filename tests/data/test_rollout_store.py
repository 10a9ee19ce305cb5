"""What is saved comes back bit for bit; a failed write harms nothing; a damaged file is refused by name."""

import json
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import pad

from lit_align.data.rollout_store import load_origin, load_rollouts, save_rollouts
from lit_align.types import Prompts, Responses, Rollouts, pad_left

LENGTHS = torch.tensor([[3, 5, 1], [2, 4, 4]])
TEXTS = [["a", "b", ""], ["d", "é\n", "f"]]
RECORDS = [
    {
        "messages": [{"role": "system", "content": 'be "nice"'}, {"role": "user", "content": "naïve ☀"}],
        "tags": [1, [2]],
    },
    {"prompt": "the cat", "answer": None, "score": 0.1, "nested": {"a": {"b": []}}},
]


def responses() -> Responses:
    torch.manual_seed(0)
    mask = torch.arange(5) < LENGTHS[..., None]
    ids, prompt_mask = pad_left([[0, 5, 0], [6]])  # tokens equal to the padding are tokens all the same
    prompts = Prompts(ids, prompt_mask, torch.tensor([2**63 - 1, 3]), RECORDS)
    return Responses(
        prompts=prompts,
        ids=torch.where(mask, torch.randint(0, 9, mask.shape), 0),
        mask=mask,
        truncated=torch.tensor([[True, False, False], [False, False, True]]),
        sample_logps=torch.where(mask, -torch.rand(mask.shape) * 1e-3, 0.0),
        source=("policy", "anchor", "mixture"),
        iteration=7,
        seed=2**40 + 1,
    )


def rollouts(**known) -> Rollouts:
    wins = torch.rand(2, 3, 3)
    compared = torch.rand(2, 3, 3) > 0.3
    return Rollouts(responses(), wins, compared, **known)


def everything() -> Rollouts:
    drawn = responses()
    logps = [torch.where(drawn.mask, torch.randn(drawn.mask.shape) * 10**k, 0.0) for k in (-30, 1)]
    return rollouts(
        rewards=torch.randn(2, 3) / 3,
        weights=torch.rand(2, 3),
        anchor_token_logps=logps[0],
        reference_token_logps=logps[1],
        current_token_logps=logps[1] / 3,
    )


def doubles() -> Rollouts:
    """Everything in float64, with digits that float32 does not have."""
    some = everything()
    names = ("rewards", "weights", "anchor_token_logps", "reference_token_logps", "current_token_logps", "wins")
    fine = {name: getattr(some, name).double() * (1 + 2**-40) for name in names}
    drawn = replace(some.responses, sample_logps=some.responses.sample_logps.double() / 3)
    return replace(some, responses=drawn, **fine)


def mixed() -> Rollouts:
    """Drawn in float32, scored in float64, as an enumerable policy does."""
    return replace(doubles(), responses=responses())


def assert_same(one, other):
    assert type(one) is type(other)
    for item in fields(one):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, item.name
            assert torch.equal(a, b), item.name
        elif isinstance(a, Prompts | Responses):
            assert_same(a, b)
        else:
            assert a == b, item.name


@pytest.mark.parametrize("make", [responses, rollouts, everything, doubles, mixed])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, make):
    saved = make()
    save_rollouts(tmp_path / "new" / "it.parquet", saved, TEXTS)
    assert_same(load_rollouts(tmp_path / "new" / "it.parquet"), saved)


def test_padding_that_all_rows_share_is_not_kept(tmp_path):
    saved = everything()
    names = ("ids", "mask", "sample_logps")
    wide = replace(saved.responses, **{name: pad(getattr(saved.responses, name), (0, 3)) for name in names})
    save_rollouts(tmp_path / "it.parquet", wide, TEXTS)
    assert_same(load_rollouts(tmp_path / "it.parquet"), saved.responses)


def test_any_reader_of_parquet_sees_one_row_a_prompt(tmp_path):
    save_rollouts(tmp_path / "it.parquet", everything(), TEXTS)
    rows = pq.read_table(tmp_path / "it.parquet").to_pylist()
    assert [row["texts"] for row in rows] == TEXTS
    assert [json.loads(row["record"]) for row in rows] == RECORDS
    assert [len(ids) for ids in rows[0]["response_ids"]] == LENGTHS[0].tolist()


def test_a_later_stage_replaces_an_earlier_one(tmp_path):
    save_rollouts(tmp_path / "it.parquet", responses(), TEXTS)
    save_rollouts(tmp_path / "it.parquet", everything(), TEXTS)
    assert isinstance(load_rollouts(tmp_path / "it.parquet"), Rollouts)
    assert [path.name for path in tmp_path.iterdir()] == ["it.parquet"]


def test_a_write_that_fails_leaves_the_file_before_it_and_the_next_one_succeeds(tmp_path, monkeypatch):
    path = tmp_path / "it.parquet"
    before = responses()
    save_rollouts(path, before, TEXTS)

    def half(table, file, **options):
        file.write(b"PAR1 half of a file")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half)
        with pytest.raises(OSError, match=r"it\.parquet.*no space left"):
            save_rollouts(path, everything(), TEXTS)
    assert_same(load_rollouts(path), before)
    assert [left.name for left in tmp_path.iterdir()] == ["it.parquet"]
    save_rollouts(path, everything(), TEXTS)
    assert isinstance(load_rollouts(path), Rollouts)


def test_a_file_that_is_cut_short_is_refused_by_name(tmp_path):
    path = tmp_path / "it.parquet"
    save_rollouts(path, everything(), TEXTS)
    whole = path.read_bytes()
    for size in (0, 3, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"it\.parquet is damaged"):
            load_rollouts(path)


def test_a_damaged_byte_is_harmless_or_the_file_is_refused_by_name(tmp_path):
    path, saved = tmp_path / "it.parquet", everything()
    save_rollouts(path, saved, TEXTS)
    whole = path.read_bytes()
    messages = []
    for at in range(0, len(whole), 17):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            loaded = load_rollouts(path)
        except ValueError as error:
            messages.append(str(error))
        else:
            assert_same(loaded, saved)
    assert len(messages) > 100
    assert all("it.parquet is damaged" in message for message in messages)


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    path = tmp_path / "it.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=r"it\.parquet is damaged or no rollout file"):
        load_rollouts(path)
    path.write_text("not parquet")
    with pytest.raises(ValueError, match=r"it\.parquet is damaged"):
        load_rollouts(path)


def test_the_law_of_a_sampler_is_read_without_how_many_prompts_version_0_1_had_under_way_at_once(tmp_path):
    law = "Sampler Decoding(max_new_tokens=5, temperature=1.0"
    path = tmp_path / "it.parquet"
    save_rollouts(path, responses(), TEXTS, {"sampler": f"{law}, prompts_at_once=16)", "policy": "a"})
    assert load_origin(path) == {"sampler": f"{law})", "policy": "a"}
