"""A run in one's own program is stopped by a signal where it is, too, and says how it goes on."""

import os
import signal

import pytest

from lit_align import LanguageModel
from lit_align.iteration.module import AlignmentModule
from tests.tiny_runs import assert_same_weights, build


@pytest.mark.parametrize("stage", ["sampling", "training"])
def test_sigterm_does_not_wait_for_the_next_minibatch(tiny_model, pools, tmp_path, monkeypatch, capsys, stage):
    whole = build(tiny_model, pools, tmp_path / "whole").fit()
    run = build(tiny_model, pools, tmp_path / "stopped")
    before, reached = signal.getsignal(signal.SIGTERM), []
    with monkeypatch.context() as patch:
        owner, name = (LanguageModel, "sample") if stage == "sampling" else (AlignmentModule, "training_step")
        original = getattr(owner, name)

        def stopped(self, *arguments):
            if stage == "sampling" or self.iteration == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append("too far")
            return original(self, *arguments)

        patch.setattr(owner, name, stopped)
        with pytest.raises(SystemExit) as leaving:
            run.fit()
    assert leaving.value.code == 143
    assert reached == []
    assert signal.getsignal(signal.SIGTERM) == before  # a program of one's own is as it was

    last = run.folder / "checkpoints" / "last.ckpt"
    checkpoint = None if stage == "sampling" else last
    how = "" if checkpoint is None else f", ckpt_path={str(last)!r}"
    assert f"to go on: Trainer(run={str(run.folder)!r}).fit(module, data{how})" in capsys.readouterr().err
    continued = build(tiny_model, pools, tmp_path, run=run.folder).fit(ckpt_path=checkpoint)
    assert_same_weights(whole.weights, continued.weights)
