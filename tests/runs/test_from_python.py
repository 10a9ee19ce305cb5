"""What Python hands over trains as what a config names does: rows, functions, and functions that return rows."""

from functools import partial

import datasets
import lightning as L
import pytest
import torch

from lit_align import DPO, Initial, LanguageModel, PairData, RewardFunction, RunRecord, Sampler, Trainer
from lit_align.cli import main
from tests.command_line import write_config
from tests.conftest import happiness, prompts_of, write_jsonl
from tests.data.test_pair_data import rows_of
from tests.tiny_runs import assert_same_weights, build


def to_train_on():
    return prompts_of(16)


def held_out():
    return datasets.Dataset.from_list(prompts_of(8, offset=40))


def test_rows_and_a_function_train_as_their_files_and_its_path_do(tiny_model, pools, tmp_path):
    named = build(tiny_model, pools, tmp_path / "named").fit()
    rows = {"train": to_train_on(), "heldout": held_out()}
    handed = build(tiny_model, rows, tmp_path / "handed", wind={"judge": RewardFunction(happiness)}).fit()
    assert_same_weights(handed.weights, named.weights)
    assert handed.rows == named.rows
    assert (handed.folder / "identity.json").read_text() == (named.folder / "identity.json").read_text()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_pairs_train_from_a_list(tiny_model, tmp_path, streaming):
    weights = []
    for train in (rows_of(), write_jsonl(tmp_path / "pairs.jsonl", rows_of())):
        L.seed_everything(0, verbose=False)
        sgd = partial(torch.optim.SGD, lr=0.05)
        module = DPO(LanguageModel(tiny_model), anchor=Initial(), sampler=Sampler(max_new_tokens=8), optimizer=sgd)
        trainer = Trainer(
            default_root_dir=tmp_path / "runs",
            accelerator="cpu",
            max_epochs=1,
            enable_progress_bar=False,
            logger=False,
            callbacks=[RunRecord(samples=0, export=False)],
        )
        trainer.fit(module, PairData(train, batch_size=4, prompts_per_iteration=8, streaming=streaming))
        weights.append(module.state_dict())
    assert_same_weights(*weights)


def test_a_config_names_functions_that_return_rows(tiny_model, pools, tmp_path):
    functions = {"train": f"function:{__name__}.to_train_on", "heldout": f"function:{__name__}.held_out"}
    filed = main(["fit", "-c", write_config(tmp_path, tiny_model, pools)])
    made = main(["fit", "-c", write_config(tmp_path, tiny_model, pools | functions)])
    assert made.datamodule.identity == filed.datamodule.identity
    assert_same_weights(made.model.state_dict(), filed.model.state_dict())
    arguments = ["--data.test", f"function:{__name__}.held_out"]
    run = made.trainer.default_root_dir
    tested = main(["test", "-c", str(run), "--ckpt_path", f"{run}/checkpoints/last.ckpt", *arguments])
    assert tested.datamodule.rows["test"] == filed.datamodule.rows["heldout"]
