"""Laws of checkpoints: whole or refused, and there is always one."""

import os

import pytest
import torch

from lit_align import Checkpoints, WholeFiles
from lit_align.run_folder import RunFolder
from tests.checkpoint_files import same, written
from tests.tiny_runs import assert_same_weights, build


def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    (path,) = written(tmp_path, 1)

    def half(checkpoint, file):
        file.write(b"PK half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="no space left"):
            WholeFiles().save_checkpoint({}, path)
    assert same(WholeFiles().load_checkpoint(path))
    assert sorted(file.name for file in path.parent.iterdir()) == ["iteration-0001.ckpt", "last.ckpt"]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "checkpoints" / "iteration-0001.ckpt"
    WholeFiles().save_checkpoint({"state_dict": Evil()}, path)
    for weights_only in (None, False):
        with pytest.raises(ValueError, match=r"iteration-0001\.ckpt is refused"):
            WholeFiles().load_checkpoint(path, weights_only=weights_only)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("keep", "every", "kept"), [(2, 1, [4, 5]), (1, 1, [5]), (9, 1, [1, 2, 3, 4, 5]), (2, 2, [4, 5]), (3, 4, [4, 5])]
)
def test_the_newest_are_kept_and_the_end_of_the_run_always(tiny_model, pools, tmp_path, keep, every, kept):
    pool = {"prompts_per_iteration": 1, "batch_size": 1}
    callbacks = [Checkpoints(keep=keep, every=every)]
    run = build(tiny_model, pools | {"heldout": None}, tmp_path, pool=pool, max_epochs=5, callbacks=callbacks).fit()
    names = [path.name for path in RunFolder(run.folder).written_checkpoints()]
    assert sorted(names) == [f"iteration-{iteration:04d}.ckpt" for iteration in kept]
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert_same_weights(last["state_dict"], run.weights)


@pytest.mark.parametrize("name", ["keep", "every"])
def test_numbers_without_a_meaning_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        Checkpoints(**{name: 0})
