"""The Trainer: one run folder for everything, ours where the user gave none, theirs where they did."""

import lightning as L
import pytest
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_align import Checkpoints, Interrupts, Predictions, RunRecord, SameRun, StageBars, WholeFiles
from lit_align.runs.trainer import Trainer


def trainer(root, **options):
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False}
    return Trainer(default_root_dir=root, **(quiet | options))


def of_kind(made, kind):
    return [callback for callback in made.callbacks if isinstance(callback, kind)]


def test_every_trainer_has_a_folder_of_its_own(tmp_path):
    made = [trainer(tmp_path / "runs") for _ in range(4)]
    folders = {made_one.default_root_dir for made_one in made}
    assert len(folders) == 4
    assert {str(path) for path in (tmp_path / "runs").iterdir()} == {str(folder) for folder in folders}


def test_a_given_run_is_gone_on_with(tmp_path):
    first = trainer(tmp_path)
    again = trainer(tmp_path / "elsewhere", run=first.default_root_dir)
    assert again.default_root_dir == first.default_root_dir
    assert not (tmp_path / "elsewhere").exists()


def test_checkpoints_and_events_lie_in_the_run_folder(tmp_path):
    made = trainer(tmp_path, logger=True)
    folder = made.default_root_dir
    assert of_kind(made, Checkpoint) == of_kind(made, Checkpoints)  # which know no other folder than the trainer's
    (logger,) = made.loggers
    assert isinstance(logger, TensorBoardLogger)
    assert logger.log_dir.rstrip("/") == str(folder)


def test_ours_are_there_by_default_and_bars_only_when_wanted(tmp_path):
    made = trainer(tmp_path, enable_progress_bar=True)
    assert [len(of_kind(made, kind)) for kind in (StageBars, RunRecord, Predictions, Interrupts)] == [1, 1, 1, 1]
    assert made.progress_bar_callback is of_kind(made, StageBars)[0]
    assert not of_kind(trainer(tmp_path), StageBars)
    assert [len(of_kind(made, kind)) for kind in (Checkpoints, SameRun)] == [1, 1]
    assert not of_kind(trainer(tmp_path, enable_checkpointing=False), Checkpoint)


class MyRecord(RunRecord):
    """A user's own record."""


@pytest.mark.parametrize("mine", [RunRecord(samples=1), MyRecord()], ids=["same class", "subclass"])
def test_a_record_of_the_users_replaces_ours(tmp_path, mine):
    assert of_kind(trainer(tmp_path, callbacks=[mine]), RunRecord) == [mine]
    assert of_kind(trainer(tmp_path, callbacks=mine), RunRecord) == [mine]


def test_a_checkpoint_of_the_users_replaces_ours(tmp_path):
    for mine in (ModelCheckpoint(dirpath=tmp_path / "mine"), Checkpoints(every=10)):
        assert of_kind(trainer(tmp_path, callbacks=[mine]), Checkpoint) == [mine]


class MyFiles(WholeFiles):
    """A user's own way of writing checkpoints."""


def test_checkpoints_are_written_whole_unless_the_user_has_another_way(tmp_path):
    assert type(trainer(tmp_path).strategy.checkpoint_io) is WholeFiles
    for mine in (MyFiles(), [MyFiles()]):
        assert type(trainer(tmp_path, plugins=mine).strategy.checkpoint_io) is MyFiles


def test_other_callbacks_are_added(tmp_path):
    mine = L.Callback()
    made = trainer(tmp_path, callbacks=[mine])
    assert mine in made.callbacks
    assert of_kind(made, RunRecord)


def test_loggers_of_the_users_stand_beside_ours(tmp_path):
    assert trainer(tmp_path, logger=False).loggers == []
    mine = CSVLogger(tmp_path / "csv")
    for given in (mine, [mine]):
        made = trainer(tmp_path, logger=given).loggers
        assert isinstance(made[0], TensorBoardLogger)
        assert made[1:] == [mine]


def test_an_epoch_is_an_iteration(tmp_path):
    made = trainer(tmp_path)
    assert made.reload_dataloaders_every_n_epochs == 1
    assert made.num_sanity_val_steps == 0
    assert made.max_epochs == 3
    assert trainer(tmp_path, max_epochs=7).max_epochs == 7
