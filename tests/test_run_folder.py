"""Laws of the run folder: its names are a format, spelled in one file; what is damaged gives way to what is whole."""

import ast
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lit_align
from lit_align import WholeFiles
from lit_align.run_folder import RunFolder, is_whole, recorded, trusted_checkpoint, verdicts_of
from lit_align.utils.files import replace_link
from tests.checkpoint_files import STATE, same, written

ROOT = Path(lit_align.__file__).parent
RUN = RunFolder(Path("run"))
NAMES = {
    "config.yaml": RUN.config,
    "config-1.yaml": RUN.older_config(1),
    "identity.json": RUN.identity,
    "versions.json": RUN.versions,
    "metrics.csv": RUN.metrics,
    "timings.csv": RUN.timings,
    "predictions.jsonl": RUN.predictions,
    "model": RUN.model,
    "checkpoints": RUN.checkpoints,
    "checkpoints/last.ckpt": RUN.last,
    "checkpoints/iteration-0003.ckpt": RUN.checkpoint(3),
    "rollouts/iteration-0003-rank0.parquet": RUN.rollouts(3),
    "rollouts/iteration-0012-rank1-of-2.parquet": RUN.rollouts(12, 1, 2),
    "rollouts/iteration-0003-rank0.verdicts.sqlite": verdicts_of(RUN.rollouts(3)),
    "evaluation/heldout-0002-rank0.parquet": RUN.evaluation(2),
    "evaluation/heldout-0002-rank1-of-2.parquet": RUN.evaluation(2, 1, 2),
    "evaluation/test-0002-rank0.parquet": RUN.evaluation(2, test=True),
    "evaluation/heldout-0002-0a1b-rank0.parquet": RUN.evaluation(2, of="0a1b"),
    "metrics-1.csv": RUN.older_metrics(),
    "faults/step-000007-minibatch-0001-rank0.parquet": RUN.fault(7, 1, 0),
}
_FILE = re.compile(r"config\.yaml|config-|identity\.json|versions\.json|metrics\.csv|timings\.csv|predictions\.jsonl")
_IN_A_FOLDER = re.compile(r"\.ckpt|\.verdicts|-rank|(iteration|heldout|test|minibatch)-$")
_FOLDER = re.compile(r"(^|/)(checkpoints|rollouts|evaluation|faults|model)(/|$)")
_BOTH = {"rollouts", "evaluation", "model"}  # words of the code too: a name on disk only where a path is made of it


def spelled(source: str) -> Iterator[str]:
    """Names of the run folder among the literals of a source; prose has spaces in it, and is none."""
    tree = ast.parse(source)
    joined = {id(node.right) for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            folder = _FOLDER.search(node.value) and (node.value not in _BOTH or id(node) in joined)
            if folder or _FILE.search(node.value) or _IN_A_FOLDER.search(node.value):
                yield node.value


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_version_is_found_under_these_names(name):
    assert NAMES[name] == RUN.path / name


@pytest.mark.parametrize(
    "source",
    [
        'path / "metrics.csv"',
        'path / "model"',
        'path / f"config-{number}.yaml"',
        'path / "checkpoints"',
        'glob("rollouts/*.parquet")',
        'f"heldout-{iteration:04d}"',
        'f"{name}-rank{rank}.parquet"',
        'with_suffix(".verdicts.sqlite")',
    ],
)
def test_a_name_of_the_run_folder_is_seen_in_a_source(source):
    assert list(spelled(source))


@pytest.mark.parametrize("module", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")))
def test_no_other_file_spells_a_name_of_the_run_folder(module):
    assert (module == "run_folder.py") == bool(found := list(spelled((ROOT / module).read_text()))), found


def test_no_number_of_ranks_takes_the_file_of_another_for_its_own():
    paths = [
        path(4, rank, ranks) for path in (RUN.rollouts, RUN.evaluation) for ranks in (1, 2, 3) for rank in range(ranks)
    ]
    assert len(set(paths)) == len(paths)


def test_a_checkpoint_leads_to_its_run():
    assert RunFolder.around(RUN.checkpoint(3)) == RunFolder.around(RUN.last) == RUN


def test_runs_are_those_that_have_left_a_config(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    for name in ("a", "c"):
        RunFolder(tmp_path / name).config.write_text("")
    assert {run.path.name for run in RunFolder.all_under(tmp_path)} == {"a", "c"}


def test_a_run_went_on_when_it_wrote_last_not_when_it_was_looked_at(tmp_path):
    run = RunFolder(tmp_path)
    parts = [run.config, run.checkpoint(1), run.rollouts(0), run.metrics, run.evaluation(1)]
    for age, path in enumerate(parts):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, ns=(age, age))
    assert run.last_written() == parts.index(run.rollouts(0))
    os.utime(run.checkpoint(1), ns=(9, 9))
    assert run.last_written() == 9


def test_an_iteration_that_two_numbers_of_ranks_have_collected_is_the_later_whole_one(tmp_path):
    run = RunFolder(tmp_path)
    alone, both = [run.rollouts(0)], [run.rollouts(0, rank, 2) for rank in range(2)]
    for age, path in enumerate([*alone, *both]):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, ns=(age, age))
    assert recorded(str(tmp_path)) == [both]
    both[1].unlink()
    assert recorded(str(tmp_path)) == [alone]
    alone[0].unlink()
    with pytest.raises(ValueError, match="iteration 0 has no file of rank 1"):
        recorded(str(tmp_path))


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
    assert RunFolder(tmp_path).written_checkpoints() == [first, second]


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


def test_a_folder_of_checkpoints_that_is_another_programs_is_no_run(tmp_path):
    for name in ("checkpoints", "rollouts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "epoch=3.ckpt").touch()
    (tmp_path / "config.yaml").touch()
    assert not RunFolder(tmp_path).has_begun
    assert not RunFolder(tmp_path / "nowhere").has_begun


@pytest.mark.parametrize(
    "left", ["identity.json", "checkpoints/iteration-0001.ckpt", "rollouts/iteration-0000-rank0.parquet"]
)
def test_what_only_a_run_leaves_tells_it(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    assert RunFolder(tmp_path).has_begun
