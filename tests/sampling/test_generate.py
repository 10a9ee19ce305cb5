"""The sampling loop: one token after another from the law of the history, ends, lengths, dropped rows."""

import pytest
import torch

from lit_align.sampling.decoding import Decoding, draw
from lit_align.sampling.generate import generate
from tests.sampling.chain import EOS, STATES, VOCABULARY, Chain, prompts

LENGTH = 12
POLICY = Decoding(max_new_tokens=LENGTH)


def run(model=None, some=None, uniforms=None, decoding=POLICY, group=4, **options):
    some = prompts() if some is None else some
    uniforms = torch.rand(len(some), group, LENGTH) if uniforms is None else uniforms
    return generate(model or Chain(), some.ids, some.mask, uniforms, decoding, EOS, **options)


def one_by_one(some, uniforms, decoding):
    """The same by the definition: each response alone, its whole history read again for each token."""
    everything = []
    for b, prompt in enumerate(some.ids):
        for k in range(uniforms.shape[1]):
            history, response, logps = prompt[some.mask[b]], [], []
            for u in uniforms[b, k]:
                logits = Chain().prefill(history[None], torch.ones(1, len(history), dtype=torch.bool), 1)
                token, logp = draw(decoding.log_probabilities(logits), u[None])
                response.append(int(token))
                logps.append(float(logp))
                history = torch.cat([history, token])
                if response[-1] in EOS:
                    break
            everything.append((response, logps))
    return everything


@pytest.mark.parametrize("decoding", [POLICY, Decoding(max_new_tokens=LENGTH, temperature=0.7, top_k=4, top_p=0.9)])
def test_responses_are_those_drawn_one_by_one(decoding):
    some, uniforms = prompts(), torch.rand(9, 4, LENGTH)
    ids, logps, lengths = run(some=some, uniforms=uniforms, decoding=decoding)
    expected = one_by_one(some, uniforms, decoding)
    assert lengths.flatten().tolist() == [len(response) for response, _ in expected]
    for row, (response, values) in enumerate(expected):
        end = len(response)
        assert ids.flatten(0, 1)[row].tolist() == response + [0] * (LENGTH - end)
        torch.testing.assert_close(logps.flatten(0, 1)[row, :end], torch.tensor(values))
        assert (logps.flatten(0, 1)[row, end:] == 0).all()


def test_a_response_ends_at_the_first_of_any_end_token_or_at_the_limit():
    ids, _, lengths = run(group=20)
    ended = torch.isin(ids, EOS)
    last = ids.gather(-1, (lengths - 1)[..., None]).squeeze(-1)
    assert (ended.sum(-1) <= 1).all()
    assert (torch.isin(last, EOS) | (lengths == LENGTH)).all()
    assert {2, 5} <= set(last.flatten().tolist())
    assert (~torch.isin(last, EOS)).any()


@pytest.mark.parametrize("share", [2.0, 0.0, 0.125, 0.5])
def test_dropping_finished_rows_changes_no_token(share):
    uniforms = torch.rand(9, 4, LENGTH)
    whole, seen = run(model := Chain(), uniforms=uniforms, compact=2.0), model.rows_seen
    assert set(seen) == {36}
    dropped = run(model := Chain(), uniforms=uniforms, compact=share)
    assert all(torch.equal(a, b) for a, b in zip(whole, dropped, strict=True))
    assert (min(model.rows_seen) < 36) == (share < 1)


@pytest.mark.parametrize("at_once", [1, 2, 4, 9, 20])
@pytest.mark.parametrize("admits", [True, False])
def test_prompts_that_wait_for_room_are_answered_as_they_would_be_at_once(at_once, admits):
    uniforms = torch.rand(9, 4, LENGTH)
    whole = run(uniforms=uniforms)
    model = Chain(admits=admits)
    waited = run(model, uniforms=uniforms, at_once=at_once)
    assert all(torch.equal(a, b) for a, b in zip(whole, waited, strict=True))
    assert max(model.rows_seen) <= 4 * at_once


def test_prompts_are_admitted_before_the_last_row_has_ended():
    uniforms = torch.rand(9, 4, LENGTH)
    steps = {}
    for admits in (True, False):
        run(model := Chain(admits=admits), uniforms=uniforms, at_once=3)
        steps[admits] = len(model.rows_seen)
    assert steps[True] < steps[False]


@pytest.mark.parametrize("look_every", [1, 8])
def test_looking_seldom_changes_no_token_and_no_row_goes_on_past_its_last(look_every):
    some, uniforms = prompts(200), torch.rand(200, 1, LENGTH)
    table = Chain().table.index_fill(1, EOS, -1.0)
    whole = run(Chain(table), some, uniforms)

    class Counting(Chain):
        """Counts the tokens of each row."""

        def prefill(self, ids, mask, group_size):
            logits = super().prefill(ids, mask, group_size)
            before = getattr(self, "tokens", self.state[:0])
            self.tokens = torch.cat([before, torch.zeros(len(self.state) - len(before), dtype=torch.long)])
            return logits

        def step(self, tokens):
            self.tokens = self.tokens + 1
            assert self.tokens.max() < LENGTH
            return super().step(tokens)

        def keep(self, rows):
            super().keep(rows)
            self.tokens = self.tokens[rows]

    seldom = run(Counting(table), some, uniforms, at_once=40, look_every=look_every)
    assert all(torch.equal(a, b) for a, b in zip(whole, seldom, strict=True))


def test_nothing_is_computed_for_a_batch_that_has_ended():
    always = torch.full((STATES, VOCABULARY), -torch.inf)
    always[:, 5] = 0.0
    ids, logps, lengths = run(model := Chain(always))
    assert model.rows_seen == []
    assert (lengths == 1).all()
    assert (ids[..., 0] == 5).all()
    assert (ids[..., 1:] == 0).all()
    assert (logps == 0).all()


def test_the_last_token_is_not_fed_back():
    never = torch.randn(STATES, VOCABULARY)
    never[:, EOS] = -torch.inf
    _, _, lengths = run(model := Chain(never))
    assert (lengths == LENGTH).all()
    assert len(model.rows_seen) == LENGTH - 1


def test_frequencies_of_whole_responses_are_products_of_the_chain():
    some, chain = prompts(1), Chain()
    uniforms = torch.rand(1, 8000, 2)
    ids, logps, _ = generate(Chain(), some.ids, some.mask, uniforms, Decoding(max_new_tokens=2), EOS)
    first = chain.prefill(some.ids, some.mask, 1).log_softmax(-1)[0]
    statistic, cells = 0.0, 0
    for a in range(VOCABULARY):
        second = chain.table[chain.after(chain.state, a)].log_softmax(-1)[0]
        ends = a in EOS
        for b in [0] if ends else range(VOCABULARY):
            logp = first[a] + (0 if ends else second[b])
            found = (ids[0] == torch.tensor([a, b])).all(-1)
            torch.testing.assert_close(logps[0][found].sum(-1), logp.expand(int(found.sum())))
            statistic += float((found.sum() - 8000 * logp.exp()) ** 2 / (8000 * logp.exp()))
            cells += 1
    assert cells == 37
    assert statistic < 58.6  # chi-square, 36 degrees, 1 %
