"""A language model as a policy: it samples what transformers would, from its exact law, and scores what it sampled."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_align import LanguageModel, LoRA, Sampler
from lit_align.models.scoring.token_logps import token_logps
from lit_align.sampling.decoding import Decoding
from tests.conftest import prompts_of
from tests.draws import recorded, same_draws
from tests.rounding import AGAIN, assert_same_but_rounding, steps_of

LENGTH = 20


@pytest.fixture(scope="module")
def policy(tiny_model) -> LanguageModel:
    policy = LanguageModel(tiny_model)
    policy.load()
    return policy


def drawn(policy, count=6, group=4, length=LENGTH, source="policy", **options):
    prompts = policy.encode(prompts_of(count))
    return policy.sample(prompts, torch.rand(count, group, length), Decoding(max_new_tokens=length, **options), source)


def distribution(path, prompt):
    """Probabilities of the next token, the plain way."""
    logits = AutoModelForCausalLM.from_pretrained(path)(torch.tensor([prompt])).logits[0, -1]
    return logits.detach().softmax(-1)


@pytest.mark.parametrize("length", [LENGTH, 60])
def test_greedy_responses_are_those_of_transformers_and_stop_at_either_end_token(policy, tiny_model, length):
    responses = drawn(policy, count=24, group=1, length=length, temperature=0.0)
    prompts = responses.prompts
    assert prompts.mask.sum(1).unique().numel() > 1
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    inputs = {"input_ids": prompts.ids, "attention_mask": prompts.mask.long()}
    expected = plain.generate(**inputs, do_sample=False, max_new_tokens=length)[:, prompts.ids.shape[1] :]
    width = expected.shape[1]
    assert torch.equal(responses.ids[:, 0, :width], expected)
    last = responses.ids.gather(-1, (responses.lengths - 1)[..., None]).flatten()
    assert {2, 4} <= set(last.tolist())
    assert torch.equal(responses.truncated[:, 0], (last != 2) & (last != 4))
    assert responses.truncated.any() == (length == LENGTH)


def test_frequencies_of_sampled_tokens_are_the_models_probabilities(policy, tiny_model):
    prompts = policy.encode(prompts_of(1))
    tokens = policy.sample(prompts, torch.rand(1, 8000, 1), Decoding(max_new_tokens=1), "policy").ids.flatten()
    expected = 8000 * distribution(tiny_model, prompts.ids[0].tolist())
    common = expected > 5
    counts = torch.bincount(tokens, minlength=len(expected)).float()
    cells = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = ((cells - wanted) ** 2 / wanted).sum()
    assert len(cells) > 8
    assert statistic < torch.distributions.Chi2(len(cells) - 1.0).mean + 3 * (2 * (len(cells) - 1)) ** 0.5


@pytest.mark.parametrize("source", ["policy", "reference"])
def test_log_probs_while_sampling_are_those_of_scoring(policy, source):
    responses = drawn(policy, source=source)
    scored = policy.logps(responses, source).detach()
    assert scored.shape == responses.ids.shape
    assert_same_but_rounding(scored, responses.sample_logps)
    assert (scored[~responses.mask] == 0).all()
    assert (scored[responses.mask] < 0).all()


def test_a_response_depends_on_its_prompt_and_seed_only(policy):
    prompts = policy.encode(prompts_of(9))
    sampler = Sampler(group_size=3, max_new_tokens=LENGTH)
    with recorded() as margins:
        whole = sampler.respond(policy, prompts, seed=1, iteration=0).select([4, 0, 8])
    pieces = Sampler(group_size=3, max_new_tokens=LENGTH, token_budget=150)
    some = pieces.respond(policy, prompts.select([4, 0, 8]), seed=1, iteration=0)
    if same_draws(some, whole, margins, within=steps_of(torch.float32, 8, AGAIN)):
        assert_same_but_rounding(some.sample_logps, whole.sample_logps)


def test_scoring_in_parts_or_alone_changes_nothing(policy):
    responses = drawn(policy)
    with torch.no_grad():
        whole = policy.logps(responses)
        read = []
        handle = policy.model.register_forward_pre_hook(
            lambda model, _, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
        )
        parts = token_logps(policy.model, responses.trim(), tokens_at_once=1)
        handle.remove()
        assert len(read) == responses.mask[..., 0].numel()  # each response in a sequence of its own
        assert_same_but_rounding(parts, whole[..., : parts.shape[-1]])
        alone = policy.logps(responses.select([3]))
    assert_same_but_rounding(alone, whole[3:4])


def test_an_unknown_source_is_refused(policy):
    with pytest.raises(ValueError, match="unknown source 'anchor': choose policy, reference"):
        drawn(policy, source="anchor")


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_after_sampling_in_eval_mode(policy, training):
    seen = []
    handle = policy.model.register_forward_pre_hook(lambda model, _: seen.append(model.training))
    policy.train(training)
    drawn(policy)
    handle.remove()
    assert set(seen) == {False}
    assert policy.model.training == training
    assert all(part.training == training for part in policy.model.modules())
    assert not any(part.training for part in policy.frozen.modules())


def test_adapter_dropout_is_off_while_sampling(tiny_model):
    policy = LanguageModel(tiny_model, lora=LoRA(rank=4, dropout=0.5))
    policy.load()
    with torch.no_grad():
        for weight in policy.parameters():
            weight += weight.requires_grad * 0.1 * torch.randn_like(weight)
    policy.train()
    responses = drawn(policy)
    assert (policy.logps(responses) - responses.sample_logps).abs().max() > 1e-2
    policy.eval()
    assert_same_but_rounding(policy.logps(responses).detach(), responses.sample_logps)


def test_texts_are_free_of_special_tokens_and_of_what_follows_the_end(policy):
    responses = drawn(policy, count=1, group=3, length=4)
    words = policy.tokenizer.convert_tokens_to_ids
    ids = [[words("good"), words("cat"), 2, words("bad")], [words("sun"), 4, 0, 0], [2, words("bad"), 0, 0]]
    lengths = torch.tensor([3, 2, 1])
    responses.ids[0], responses.mask[0] = torch.tensor(ids), torch.arange(4) < lengths[:, None]
    assert policy.text(responses) == [["good cat", "sun", ""]]


def with_config(source: str, folder, *, ends, template: str | None = None, special: bool = True, **names) -> str:
    """The tiny model with another generation config, chat template and names of its tokens."""
    shutil.copytree(source, folder)
    settings = json.loads((folder / "generation_config.json").read_text()) | {"eos_token_id": ends}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template or tokenizer.chat_template
    for name, token in names.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    if not special:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_text((folder / file).read_text().replace('"special": true', '"special": false'))
    return str(folder)


STOP = "{% for m in messages %}<|start|>{{ m['role'] }} {{ m['content'] }}<|stop|>{% endfor %}"
STOP += "{% if add_generation_prompt %}<|start|>assistant {% endif %}"


@pytest.mark.parametrize("ends", [0, [0], [0, 500], None])
def test_sampling_stops_at_the_ends_of_generation_config_tokenizer_and_template(tiny_model, tmp_path, ends):
    policy = LanguageModel(with_config(tiny_model, tmp_path / "model", ends=ends, template=STOP))
    assert policy.check() == policy.ends.told(policy.tokenizer)
    assert policy.ends.ids == ((2, 4) if ends is None else (0, 2, 4))
    assert policy.ends.written == 4
    assert policy.model is None
    policy.load()
    assert policy.eos.tolist() == list(policy.ends.ids)
    last = drawn(policy, count=24, length=60).ids
    assert set(policy.ends.ids) & set(last.flatten().tolist())
    written = policy.encode_responses(policy.encode(prompts_of(1)), [["good cat"]], 8)
    assert written.ids[0, 0, -1] == 4


def test_a_model_without_a_generation_config_ends_where_its_config_says(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()
    settings = json.loads((tmp_path / "model" / "config.json").read_text()) | {"eos_token_id": [2, 3]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    assert LanguageModel(str(tmp_path / "model")).ends.ids == (2, 3)


def test_no_end_anywhere_is_one_line_before_weights_load(tiny_base_model, tmp_path):
    policy = LanguageModel(with_config(tiny_base_model, tmp_path / "model", ends=None, eos_token=None))
    shutil.copy(f"{tiny_base_model}/config.json", tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text()) | {"eos_token_id": None}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^no token ends an answer"):
        policy.check()


def test_texts_have_no_end_though_it_is_not_special_and_the_special_tokens_inside_that_are_asked_for(
    policy, tiny_model, tmp_path
):
    names = {"pad_token": None, "eos_token": None, "bos_token": None, "additional_special_tokens": []}
    plain = LanguageModel(with_config(tiny_model, tmp_path / "model", ends=[2, 4], special=False, **names))
    assert not plain.tokenizer.added_tokens_decoder[4].special
    responses = drawn(policy, count=1, group=2, length=4)
    words = policy.tokenizer.convert_tokens_to_ids
    ids = [[words("good"), 0, words("cat"), 4], [words("sun"), words("cat"), 0, words("day")]]
    responses.ids[0], responses.mask[0] = torch.tensor(ids), True
    assert policy.text(responses) == policy.text(responses, "drop") == [["good cat", "sun cat day"]]
    kept = [["good <|pad|> cat", "sun cat <|pad|> day"]]
    assert policy.text(responses, "keep") == plain.text(responses, "drop") == plain.text(responses, "keep") == kept


def test_an_answer_that_continues_one_begins_with_it(policy):
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "a very"}]
    prompts = policy.encode([{"messages": messages}, {"prompt": "the cat"}])
    assert policy.tokenizer.decode(prompts.ids[0]).endswith("assistant a very")
    written = policy.encode_responses(prompts, [["good day", "sad"]] * 2, 8)
    assert policy.text(written) == [["a very good day", "a very sad"], ["good day", "sad"]]
    assert prompts.texts == ["the cat"] * 2


def test_a_chat_model_reads_the_prompt_through_its_template_and_a_base_model_as_it_is(tiny_model, tiny_base_model):
    records = [{"prompt": "good day"}, {"prompt": "the cat is nice"}]
    for path, texts in (
        (tiny_model, ["<|start|>user good day<|end|><|start|>assistant ", None]),
        (tiny_base_model, ["good day", "the cat is nice"]),
    ):
        policy = LanguageModel(path)
        prompts = policy.encode(records)
        expected = AutoTokenizer.from_pretrained(path)(texts[0], add_special_tokens=False)["input_ids"]
        assert prompts.ids[0][prompts.mask[0]].tolist() == expected
        assert prompts.ids.shape[1] == prompts.mask.sum(1).max() == prompts.mask[1].sum()
        assert prompts.texts == ["good day", "the cat is nice"]
        assert policy.model is None
        assert policy.context_length == 128
    chat = [{"messages": [{"role": "user", "content": "good day"}]}]
    assert torch.equal(LanguageModel(tiny_model).encode(chat).ids, LanguageModel(tiny_model).encode(records[:1]).ids)
    with pytest.raises(ValueError, match="no chat template"):
        LanguageModel(tiny_base_model).encode(chat)


def test_a_system_message_comes_before_chats_that_have_none(tiny_model):
    records = [{"prompt": "good day"}]
    whole = [{"role": "system", "content": "nice cat"}, {"role": "user", "content": "good day"}]
    plain, advised = LanguageModel(tiny_model), LanguageModel(tiny_model, system="nice cat")
    assert torch.equal(advised.encode(records).ids, plain.encode([{"messages": whole}]).ids)
    assert not torch.equal(advised.encode(records).ids, plain.encode(records).ids)


def test_the_identity_of_a_model_of_the_hub_changes_with_its_commit_alone(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, commits = tmp_path / "models--someone--something", {"main": "0" * 40, "other": "1" * 40}
    (folder / "refs").mkdir(parents=True)
    for branch, commit in commits.items():
        (folder / "refs" / branch).write_text(commit)
        shutil.copytree(tiny_model, folder / "snapshots" / commit)
    first, other, same = (
        LanguageModel("someone/something", revision=revision).identity for revision in (None, "other", "0" * 40)
    )
    assert first == same
    assert {name for name in first if first[name] != other[name]} == {"model"}
