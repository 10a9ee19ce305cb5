"""Which prompts an iteration answers: a function of (seed, iteration) alone, without repeats, gaps or overlap."""

from types import SimpleNamespace

import pytest
import torch

from lit_align.data.prompt_pool import PromptPool
from lit_align.data.templates import content_id
from lit_align.types import Prompts, Record, pad_left, prompt_text
from tests.conftest import prompts_of, write_jsonl

BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])


def encode(records: list[Record]) -> Prompts:
    """A token a character: nothing of a real tokenizer is needed here."""
    ids, mask = pad_left([[ord(c) for c in prompt_text(record)] for record in records])
    return Prompts(ids, mask, torch.tensor([content_id(record) for record in records]), records)


class Reads:
    """A model of prompts that has no use for written responses."""

    context_length = 128
    encode = staticmethod(encode)

    def encode_responses(self, prompts, texts, max_tokens):
        raise NotImplementedError


def connected(pool: PromptPool, *names: str, encode=encode) -> PromptPool:
    """The pool, its rows read and encoded as an iteration would have them."""
    pool.read(*names)
    pool.connect(encode, Reads())
    pool.check_fits()
    return pool


@pytest.fixture
def make(pools):
    """A prepared pool of 16 prompts to train on and 8 held out, dealt out 6 at a time."""

    def made(**options) -> PromptPool:
        options = {**pools, "prompts_per_iteration": 6, "batch_size": 2, **options}
        return connected(PromptPool(**options), "train", "heldout")

    return made


def numbers(prompts: Prompts) -> list[int]:
    return [record["number"] for record in prompts.records]


def dealt(pool: PromptPool, iterations: int) -> list[int]:
    return [number for t in range(iterations) for number in numbers(pool.prompts(t))]


@BOTH
def test_every_pass_deals_every_prompt_once_in_an_order_of_its_own(make, streaming):
    numbers_dealt = dealt(make(streaming=streaming), 8)  # 48 prompts: three passes, and 6 does not divide 16
    passes = [numbers_dealt[i : i + 16] for i in (0, 16, 32)]
    assert all(sorted(one) == list(range(16)) for one in passes)
    assert len({tuple(one) for one in [*passes, list(range(16))]}) == 4


@BOTH
def test_an_iteration_is_the_same_whatever_was_dealt_before(make, streaming):
    whole = make(streaming=streaming)
    expected = [numbers(whole.prompts(t)) for t in range(6)]
    for t in (5, 2, 3, 0, 0):
        assert numbers(whole.prompts(t)) == expected[t]
        assert numbers(make(streaming=streaming).prompts(t)) == expected[t]


@BOTH
def test_the_order_depends_on_the_seed_of_the_run(make, monkeypatch, streaming):
    orders = []
    for seed in (0, 1, 1):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        torch.manual_seed(len(orders))  # the state of the global generator does not matter
        orders.append(dealt(make(streaming=streaming), 2))
    assert orders[0] != orders[1]
    assert orders[1] == orders[2]


@BOTH
def test_a_prompt_has_another_id_in_each_pass_and_the_same_one_within_it(make, streaming):
    pool = make(streaming=streaming)
    ids: dict[int, list[int]] = {}
    for t in range(8):
        prompts = pool.prompts(t)
        for number, record_id in zip(numbers(prompts), prompts.record_id.tolist(), strict=True):
            ids.setdefault(number, []).append(record_id)
    for number, row in enumerate(prompts_of(16)):
        assert ids[number][0] == content_id(row)
        assert len(set(ids[number])) == 3
    assert torch.equal(pool.prompts(7).record_id, make(streaming=streaming).prompts(7).record_id)


@BOTH
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_shares_of_the_ranks_make_up_the_iteration(make, streaming, world_size):
    for t in (0, 2):  # iteration 2 spans two passes
        whole = make(streaming=streaming).prompts(t)
        shares = [make(streaming=streaming).prompts(t, rank, world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {6 // world_size}
        assert sorted(i for share in shares for i in share.record_id.tolist()) == sorted(whole.record_id.tolist())


def test_a_stream_is_shuffled_within_its_buffer(make):
    nearby = dealt(make(streaming=True, shuffle_buffer=2), 2)
    assert all(number <= place + 2 for place, number in enumerate(nearby))
    assert dealt(make(streaming=True, shuffle_buffer=1), 2) == list(range(12))


@BOTH
def test_a_held_out_prompt_that_is_trained_on_is_refused(tmp_path, make, streaming):
    leaky = write_jsonl(tmp_path / "leaky.jsonl", [*prompts_of(4, offset=60), prompts_of(16)[11] | {"number": 99}])
    with pytest.raises(ValueError, match=r"data\.heldout: .* is in data\.train too"):
        dealt(make(heldout=leaky, streaming=streaming), 3)


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_two_rows_that_ask_the_same_are_refused(tmp_path, make, name):
    rows = prompts_of(16, offset=80)
    path = write_jsonl(tmp_path / "twice.jsonl", [*rows, rows[3] | {"number": 99}])
    with pytest.raises(ValueError, match=rf"data\.{name}: rows 3 and 16 both ask '{rows[3]['prompt']}'"):
        make(**{name: path})


@BOTH
def test_an_empty_prompt_is_refused(tmp_path, make, streaming):
    path = write_jsonl(tmp_path / "empty.jsonl", [*prompts_of(8), {"prompt": " ", "number": 99}])
    with pytest.raises(ValueError, match=r"data\.train: the prompt of row .* is empty"):
        dealt(make(train=path, streaming=streaming), 2)


def test_fewer_prompts_than_an_iteration_needs_are_refused(make):
    with pytest.raises(ValueError, match=r"data\.train has 16 prompts, fewer than data\.prompts_per_iteration \(17\)"):
        make(prompts_per_iteration=17)
    assert sorted(dealt(make(prompts_per_iteration=16), 1)) == list(range(16))


def test_a_prompt_that_the_model_refuses_is_found_before_the_run(make, pools):
    def short(records):
        if any(record["number"] == 13 for record in records):
            raise ValueError("too long")
        return encode(records)

    with pytest.raises(ValueError, match="too long"):
        connected(PromptPool(**pools, prompts_per_iteration=4), "train", encode=short)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_set_that_is_needed_and_not_given_is_named(name):
    with pytest.raises(ValueError, match=rf"data\.{name} is not given"):
        PromptPool().read(name)


@pytest.mark.parametrize("name", ["prompts_per_iteration", "batch_size", "passes"])
def test_a_number_below_one_is_refused(name):
    with pytest.raises(ValueError, match=rf"data\.{name} must be >= 1, got 0"):
        PromptPool(**{name: 0})


def trainer_of(accumulate: int = 1, world_size: int = 1, rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(accumulate_grad_batches=accumulate, world_size=world_size, global_rank=rank)


@pytest.mark.parametrize(
    ("prompts", "batch_size", "accumulate", "devices"), [(10, 4, 1, 1), (32, 4, 3, 1), (30, 4, 2, 2), (3, 4, 2, 1)]
)
def test_an_iteration_that_is_no_whole_number_of_steps_is_answered_with_one_that_is(
    prompts, batch_size, accumulate, devices
):
    pool = PromptPool(prompts_per_iteration=prompts, batch_size=batch_size)
    pool.trainer = trainer_of(accumulate, devices)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=rf"\({prompts}\) must be a multiple of .*: try \d+$") as caught:
        pool.check_divisible()
    fitting = int(str(caught.value).split()[-1])
    assert fitting > 0
    assert abs(fitting - prompts) <= max(prompts, batch_size * accumulate * devices) / 2 + batch_size
    pool.prompts_per_iteration = fitting
    pool.check_divisible()


def test_the_steps_of_an_iteration_go_through_its_prompts_on_every_pass():
    pool = PromptPool(prompts_per_iteration=48, batch_size=4, passes=2)
    pool.trainer = trainer_of(accumulate=3, world_size=2)  # type: ignore[assignment]
    assert pool.steps_per_phase == 48 * 2 // (4 * 3 * 2)


def test_the_ranks_share_the_held_out_prompts(make):
    pool, seen = make(), []
    for rank in range(3):
        pool.trainer = trainer_of(world_size=3, rank=rank)
        (batch,) = pool.val_dataloader()
        seen.append(numbers(batch))
    assert [len(share) for share in seen] == [3, 3, 2]
    assert sorted(number for share in seen for number in share) == list(range(40, 48))


def test_held_out_prompts_can_be_limited_to_the_first(make):
    pool = make(heldout_limit=3)
    pool.trainer = trainer_of()
    assert numbers(next(iter(pool.val_dataloader()))) == [40, 41, 42]


def test_nothing_held_out_means_nothing_to_evaluate(make):
    assert make(heldout=None).val_dataloader() == []


def test_the_test_prompts_are_the_held_out_ones_unless_given(pools, tmp_path):
    other = write_jsonl(tmp_path / "test.jsonl", prompts_of(2, offset=90))
    for options, expected in ((pools, list(range(40, 48))), (pools | {"test": other}, [90, 91])):
        pool = connected(PromptPool(**options), "test")
        pool.trainer = trainer_of()  # type: ignore[assignment]
        for loader in (pool.test_dataloader(), pool.predict_dataloader()):
            assert numbers(next(iter(loader))) == expected


def test_columns_are_renamed_in_every_set(tmp_path):
    rows = [{"question": row["prompt"], "number": row["number"]} for row in prompts_of(6)]
    train, heldout = (write_jsonl(tmp_path / f"{i}.jsonl", rows[i : i + 3]) for i in (0, 3))
    pool = PromptPool(train, heldout, columns={"prompt": "question"}, prompts_per_iteration=3)
    connected(pool, "train", "heldout")
    assert sorted(pool.prompts(0).texts) == sorted(row["question"] for row in rows[:3])


@BOTH
def test_rows_of_python_are_dealt_as_the_same_rows_of_a_file(make, streaming):
    given = {"train": prompts_of(16), "heldout": iter(prompts_of(8, offset=40))}
    filed, handed = make(streaming=streaming), make(streaming=streaming, **given)
    assert dealt(handed, 6) == dealt(filed, 6)
    handed.read("test")  # the held-out rows, which were read before
    assert handed.rows["test"] == handed.rows["heldout"] == filed.rows["heldout"]
    if not streaming:
        assert handed.identity == filed.identity
    assert make(streaming=streaming, train=prompts_of(15)).identity["train"] != handed.identity["train"]
