"""Laws of checkpoints: whole or refused, the one before takes over, and there is always one."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_align import Checkpoints, WholeFiles
from lit_align.callbacks.checkpoints import is_whole, run_checkpoints, trusted_checkpoint
from lit_align.utils.files import replace_link
from tests.tiny_runs import assert_same_weights, build

STATE = {"state_dict": {"a": torch.arange(600.0), "b": torch.ones(3, dtype=torch.bfloat16)}, "history": [{"x": 0.1}]}


def written(folder: Path, *iterations: int) -> list[Path]:
    """Checkpoints of these iterations, in this order, and ``last.ckpt``."""
    paths = [folder / "checkpoints" / f"iteration-{iteration:04d}.ckpt" for iteration in iterations]
    for age, path in enumerate(paths):
        WholeFiles().save_checkpoint(STATE, path)
        os.utime(path, ns=(age, age))
        replace_link(path.with_name("last.ckpt"), path)
    return paths


def same(loaded: dict) -> bool:
    """Whether what was loaded is what was saved."""
    return loaded["history"] == STATE["history"] and all(
        torch.equal(loaded["state_dict"][name], value) for name, value in STATE["state_dict"].items()
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    (path,) = written(tmp_path_factory.mktemp("whole"), 1)
    assert is_whole(path)
    assert same(WholeFiles().load_checkpoint(path))
    return path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_whatever_the_newest_checkpoint_is_cut_to_the_one_before_is_used(whole, tmp_path_factory, share):
    first, second = written(tmp_path_factory.mktemp("cut"), 1, 2)
    second.write_bytes(whole[: int(share * len(whole))])
    for asked in (second, second.with_name("last.ckpt")):
        assert trusted_checkpoint(asked) == first
    assert same(WholeFiles().load_checkpoint(second))


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_is_harmless_or_the_checkpoint_is_refused(whole, tmp_path_factory, share, bits):
    (path,) = written(tmp_path_factory.mktemp("bits"), 1)
    at = int(share * len(whole))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
    if is_whole(path):
        assert same(torch.load(path, weights_only=True))
    else:
        with pytest.raises(ValueError, match=r"iteration-0001\.ckpt is damaged, and there is no checkpoint before it"):
            WholeFiles().load_checkpoint(path)


def test_every_damaged_byte_of_the_weights_is_seen(whole, tmp_path):
    (path,) = written(tmp_path, 1)
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist()]
    start = whole.index(STATE["state_dict"]["a"].numpy().tobytes())
    assert any(name.endswith("data/0") for name in names)
    for at in range(start, start + 2400, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not is_whole(path)


def test_the_last_checkpoint_is_the_one_written_last_whether_or_not_a_link_says_so(tmp_path):
    first, second = written(tmp_path, 1, 2)
    last = first.with_name("last.ckpt")
    assert os.readlink(last) == second.name  # the run folder can be moved
    assert trusted_checkpoint(last) == second
    replace_link(last, first)
    assert trusted_checkpoint(last) == second
    last.unlink()
    assert trusted_checkpoint(last) == second
    (again,) = written(tmp_path, 1)  # the run began anew in its folder
    os.utime(again, ns=(10, 10))
    assert trusted_checkpoint(last) == again == first
    assert run_checkpoints(tmp_path) == [first, second]


def test_a_damaged_iteration_gives_way_to_one_before_it_not_after(tmp_path, caplog):
    first, second, third = written(tmp_path, 1, 2, 3)
    second.write_bytes(b"")
    assert trusted_checkpoint(second) == first
    assert f"{second} is damaged" in caplog.text
    assert trusted_checkpoint(third) == third


def test_where_none_is_whole_there_is_none(tmp_path):
    first, second = written(tmp_path, 1, 2)
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-1])
    assert trusted_checkpoint(second) is None
    assert trusted_checkpoint(second.with_name("last.ckpt")) is None


def test_a_checkpoint_that_never_was_is_refused_with_those_that_are(tmp_path):
    written(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match=r"iteration-0007\.ckpt \(in its folder: iteration-0001\.ckpt, last"):
        trusted_checkpoint(tmp_path / "checkpoints" / "iteration-0007.ckpt")
    with pytest.raises(FileNotFoundError, match=r"in its folder: none"):
        trusted_checkpoint(tmp_path / "nowhere" / "checkpoints" / "last.ckpt")


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
    names = [path.name for path in run_checkpoints(run.folder)]
    assert sorted(names) == [f"iteration-{iteration:04d}.ckpt" for iteration in kept]
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert_same_weights(last["state_dict"], run.weights)


@pytest.mark.parametrize("name", ["keep", "every"])
def test_numbers_without_a_meaning_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        Checkpoints(**{name: 0})
