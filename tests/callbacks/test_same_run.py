"""Which checkpoints a run does not go on from; the rest is told of in `test_resume`."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.tiny_runs import build


def test_a_checkpoint_inside_an_iteration_can_be_looked_at_but_not_gone_on_from(tiny_model, pools, tmp_path):
    every_step = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    first = build(tiny_model, pools, tmp_path, callbacks=[every_step]).fit()
    again = build(tiny_model, pools, tmp_path, run=first.folder)
    with pytest.raises(ValueError, match="in the middle of an iteration"):
        again.fit(ckpt_path=tmp_path / "step=3.ckpt")
    looked_at = build(tiny_model, pools, tmp_path)
    looked_at.trainer.validate(looked_at.module, looked_at.pool, ckpt_path=tmp_path / "step=3.ckpt")
    assert int(looked_at.module.iteration) == 1


def test_a_run_says_what_it_is_made_of(tiny_model, pools, tmp_path):
    folders = [build(tiny_model, pools, tmp_path, max_epochs=1, seed=seed).fit().folder for seed in (0, 0, 1)]
    one, same, other = (json.loads((folder / "identity.json").read_text()) for folder in folders)
    assert one.keys() == {"model", "tokenizer", "template", "adapters", "train", "heldout", "deal"}
    assert one == same
    assert {name for name in one if one[name] != other[name]} == {"deal"}
