"""A judge that is far away answers while responses are drawn, and what it says is what it would have said later."""

import threading
import time

import pytest

from lit_align import JudgeError, LanguageModel, LLMJudge, RewardFunction, Sampler
from lit_align.judges.ahead import Ahead
from tests.chat_server import chat_server
from tests.tiny_runs import assert_same_weights, build

SAMPLER = Sampler(group_size=3, max_new_tokens=8, token_budget=30)  # a prompt at a time, four to a call


class Sequential(LLMJudge):
    """Is not asked ahead."""

    remembers = False


@pytest.fixture
def server(monkeypatch):
    yield from chat_server(monkeypatch)


def run_of(server, kind, model, pools, folder, **options):
    judge = kind("the-judge", server.url, template="{prompt}|{first}|{second}", backoff=0.001, max_retries=1, **options)
    return build(model, pools | {"heldout": None}, folder, wind={"judge": judge, "sampler": SAMPLER}, max_epochs=1)


def test_the_judge_is_asked_before_the_last_responses_are_drawn(server, tiny_model, pools, tmp_path, monkeypatch):
    sample, asked = LanguageModel.sample, []

    def after_a_question(self, *arguments):
        if asked:  # the first responses are drawn
            until = time.monotonic() + 300
            while not server.asked and time.monotonic() < until:
                time.sleep(0.01)
        asked.append(len(server.asked))
        return sample(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "sample", after_a_question)
        early = run_of(server, LLMJudge, tiny_model, pools, tmp_path / "early").fit()
    assert asked[0] == 0
    assert asked[1] > 0
    questions = sorted(server.asked)
    assert len(questions) == len(set(questions))
    server.asked.clear()
    late = run_of(server, Sequential, tiny_model, pools, tmp_path / "late").fit()
    assert sorted(server.asked) == questions
    assert_same_weights(early.weights, late.weights)
    assert early.table(0).equals(late.table(0))


def test_a_judge_that_refuses_stops_the_run_when_all_is_drawn(server, tiny_model, pools, tmp_path):
    server.reply = lambda question: (401, b"who are you")
    run = run_of(server, LLMJudge, tiny_model, pools, tmp_path)
    with pytest.raises(JudgeError, match="status 401"):
        run.fit()
    assert list(run.folder.glob("rollouts/iteration-0000*.parquet"))


def test_what_failed_ahead_is_retried_and_is_not_missing_then(server, tiny_model, pools, tmp_path):
    failed = set()

    def reply(question):
        if not failed:
            failed.add(question)
            return 400, b"not now"
        return "A"

    server.reply = reply
    run = run_of(server, LLMJudge, tiny_model, pools, tmp_path).fit()
    (again,) = failed
    assert server.asked.count(again) == 2
    assert run.module.rollouts.compared.all()
    assert not run.module.judge.faults.reason


def test_no_thread_is_started_for_a_judge_at_hand_or_a_single_response(server, tiny_model, pools, tmp_path):
    run = run_of(server, LLMJudge, tiny_model, pools, tmp_path).fit()
    module, before = run.module, threading.active_count()
    responses = module.rollouts.responses
    single = module.sampler.respond(module.policy, responses.prompts, seed=0, iteration=0, sources=("policy",))
    for judge, group in (
        (None, responses),
        (RewardFunction("tests.conftest.happiness"), responses),
        (module.judge, single),
    ):
        ahead = Ahead(judge, lambda responses: pytest.fail("decoded"))
        ahead(group)
        assert threading.active_count() == before
        ahead.wait()
