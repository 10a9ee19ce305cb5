"""Which modules and which trainers fit together: ours run on a plain Trainer, and other modules on our machinery."""

import csv
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lit_align import Checkpoints, RunRecord, Sampler, Trainer
from lit_align.iteration.iterated import Iterated, iterated
from lit_align.iteration.stages import Stages
from lit_align.run_folder import RunFolder
from tests.conftest import prompts_of, write_jsonl
from tests.tiny_runs import assert_same_weights, build


def test_a_plain_trainer_of_lightning_trains_a_module_to_the_same_weights(tiny_model, pools, tmp_path):
    ours = build(tiny_model, pools, tmp_path / "ours", check_memory=False).fit()  # its plan draws random numbers
    plain = build(tiny_model, pools, tmp_path / "plain")
    trainer = L.Trainer(
        default_root_dir=tmp_path / "plain",
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    L.seed_everything(0, verbose=False)
    trainer.fit(plain.module, plain.pool)
    assert_same_weights(ours.weights, plain.weights)
    assert [row.keys() for row in plain.module.history] == [row.keys() for row in ours.module.history]


class Line(L.LightningModule):
    """Fits a slope in iterations; it has no policy, no judge and no rollouts."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))
        self.history = []
        self.stages = Stages(visible=False)

    def made_of(self):
        return {"line": "through the origin"}

    def export(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "slope.txt").write_text(f"{float(self.slope):.3f}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def training_step(self, batch, batch_idx):
        return ((self.slope - 2) ** 2 + 0 * batch.sum()).mean()

    def on_train_epoch_end(self):
        self.iteration += 1
        self.history.append({"iteration": float(self.iteration), "train/slope": float(self.slope)})

    def on_save_checkpoint(self, checkpoint):
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


class Points(L.LightningDataModule):
    batch_size = 2

    def train_dataloader(self):
        return DataLoader([torch.ones(2), torch.ones(2)], batch_size=None)


def trained(folder, **options):
    module = Line()
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False} | options
    ckpt_path = options.pop("ckpt_path", None)
    trainer = Trainer(default_root_dir=folder, callbacks=[RunRecord(samples=1), Checkpoints(keep=1)], **options)
    trainer.fit(module, Points(), ckpt_path=ckpt_path)
    return module, RunFolder(Path(trainer.default_root_dir))


def test_a_module_that_trains_in_iterations_needs_no_more_to_be_run_recorded_continued_and_exported(tmp_path):
    whole, _ = trained(tmp_path / "whole", max_epochs=3)
    _, folder = trained(tmp_path / "parts", max_epochs=2)
    assert isinstance(whole, Iterated)
    module, folder = trained(tmp_path / "parts", max_epochs=3, run=folder.path, ckpt_path=folder.last)
    assert torch.equal(module.slope, whole.slope)
    assert module.history == whole.history
    rows = list(csv.DictReader(folder.metrics.open()))
    assert [row["iteration"] for row in rows] == ["1", "2", "3"]
    assert (folder.model / "slope.txt").read_text() == f"{float(whole.slope):.3f}"
    assert [path.name for path in folder.written_checkpoints()] == ["iteration-0003.ckpt"]


def test_a_module_that_does_not_iterate_is_refused_in_one_line():
    with pytest.raises(TypeError, match="LightningModule does not train in iterations"):
        iterated(L.LightningModule())


def test_a_plain_trainer_that_would_train_on_old_rollouts_is_refused(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=2, **quiet)
    with pytest.raises(RuntimeError, match=r"set trainer\.reload_dataloaders_every_n_epochs to 1"):
        trainer.fit(run.module, run.pool)
    assert [row["iteration"] for row in run.module.history] == [0, 1]


def test_a_run_that_its_data_refuse_leaves_nothing_to_go_on_with(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path, wind={"sampler": Sampler(group_size=4, max_new_tokens=127)})
    with pytest.raises(ValueError, match="more than the model's context"):
        run.fit()
    folder = RunFolder(run.folder)
    assert not any(path.exists() for path in (folder.identity, folder.config, folder.versions))


def test_validating_asks_nothing_of_the_rows_that_another_module_was_trained_on(tiny_model, pools, tmp_path):
    rows = [{"prompt": "good " * 60}, *prompts_of(15)]
    train = write_jsonl(tmp_path / "long.jsonl", rows)
    first = build(tiny_model, pools | {"train": train}, tmp_path / "first").fit()
    wider = {"sampler": Sampler(group_size=4, max_new_tokens=64)}
    second = build(tiny_model, pools, tmp_path / "second", wind=wider)
    second.trainer.validate(second.module, first.pool)
    with pytest.raises(ValueError, match="more than the model's context"):
        second.trainer.fit(second.module, first.pool)
