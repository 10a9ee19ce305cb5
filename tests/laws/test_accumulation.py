"""Accumulating gradients is one large batch, however responses weigh: enumerated, tied, or drawn.

Every algorithm's own case is in tests/algorithms/test_common.py.
"""

import tempfile

import lightning as L
import pytest
import torch

from lit_align import DPO, WIND, AcceleratedPO, Sampler
from lit_align.games.contexts import Contexts
from tests.laws.instances import distance, on, random_game, sgd

CONTEXTS, ITERATIONS = 8, 2


def slots(*sources):
    return {"sampler": Sampler(sources=sources, max_new_tokens=1)}


GROUPS = {"sampler": Sampler(group_size=4, max_new_tokens=1)}
MODULES = {
    "WIND": (WIND, lambda: GROUPS),
    "WIND, enumerated": (WIND, dict),
    # Two draws of one response tie, and have weight 0: minibatches weigh differently.
    "DPO, with ties": (DPO, lambda: {"beta": 0.5, **slots("policy", "policy")}),
    "DPO, enumerated": (DPO, lambda: {"beta": 0.5, "pairing": "all"}),
    "AcceleratedPO": (AcceleratedPO, lambda: {"beta": 0.5, "pairing": "all"}),
}


def trained(name, *, batch_size, accumulate):
    """The law after a few iterations."""
    algorithm, options = MODULES[name]
    game = random_game("bradley_terry", contexts=CONTEXTS, responses=4)
    module = on(game, algorithm, optimizer=sgd(1.0), **options())
    module.keep_rollouts = False
    with tempfile.TemporaryDirectory() as folder:
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(
            default_root_dir=folder,
            max_epochs=ITERATIONS,
            accumulate_grad_batches=accumulate,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(module, Contexts(game, batch_size=batch_size))
    return module.policy.distribution().detach()


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on loaders
@pytest.mark.parametrize("name", MODULES)
def test_accumulated_minibatches_are_one_large_batch(name):
    large = trained(name, batch_size=8, accumulate=1)
    for batch_size in (1, 2):
        small = trained(name, batch_size=batch_size, accumulate=8 // batch_size)
        torch.testing.assert_close(small, large, atol=1e-12, rtol=0)
    assert distance(large, random_game("bradley_terry", contexts=CONTEXTS, responses=4).reference) > 1e-3
    assert distance(large, trained(name, batch_size=2, accumulate=1)) > 1e-4
