"""Each evaluation is in the file of its judge, prompts and rows, and takes no other one's."""

from dataclasses import replace
from functools import partial

import pytest

from lit_align import LanguageModel
from lit_align.data.rollout_store import load_rollouts
from lit_align.iteration.heldout_files import HeldOutFiles
from lit_align.iteration.origins import who_judges_of, whose_law
from lit_align.run_folder import RunFolder
from tests.conftest import prompts_of
from tests.iteration.test_origins import collect, collector

ROWS = prompts_of(3)


@pytest.fixture
def policy(tiny_model):
    model = LanguageModel(tiny_model)
    model.load()
    return model.eval()


@pytest.fixture(params=[True, False], ids=["fit", "validate"])
def files(request, tmp_path):
    return HeldOutFiles(RunFolder(tmp_path), fits=request.param)


def evaluated(files, from_, rows=ROWS):
    plain = files.plain(1)
    return collect(from_, plain, rows, sources=("policy",), chosen=partial(files.chosen, 1))


def found(files, from_, rows=ROWS):
    prompts = from_.policy.encode(rows)
    return files.found(1, who_judges_of(from_.judge, prompts) | whose_law(from_.sampler), prompts)


def test_nobodys_evaluation_and_somebodys_are_two(policy, files):
    judged = collector(policy)
    alone = replace(judged, judge=None)
    assert evaluated(files, judged).rewards is not None
    assert found(files, alone) is None
    assert evaluated(files, alone).rewards is None
    assert found(files, alone).rewards is None
    assert found(files, judged).rewards is not None
    assert (load_rollouts(files.plain(1)).rewards is None) == files.fits


def test_an_evaluation_of_rows_that_say_other_things_is_another(policy, files):
    judged, other = collector(policy), [row | {"number": -1} for row in ROWS]
    evaluated(files, judged)
    assert found(files, judged, other) is None
    evaluated(files, judged, other)
    for rows in (ROWS, other):
        assert found(files, judged, rows).responses.prompts.records == rows
