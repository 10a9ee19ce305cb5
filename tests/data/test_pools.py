"""The pools that ship with the package: large enough, without repeats, and held out by topic."""

import pytest

from lit_align.data.sources import checked, read
from lit_align.data.templates import content_id


def rows(name: str) -> list[dict]:
    return list(checked(read(f"pool:{name}"), name))


@pytest.mark.parametrize(("name", "least"), [("topics_train", 500), ("topics_heldout", 96)])
def test_a_pool_is_large_enough_and_asks_nothing_twice(name, least):
    asked = [" ".join(row["prompt"].lower().split()) for row in rows(name)]
    assert len(asked) >= least
    assert len(set(asked)) == len(asked)


def test_nothing_held_out_is_trained_on():
    train, heldout = rows("topics_train"), rows("topics_heldout")
    assert not {content_id(row) for row in train} & {content_id(row) for row in heldout}
    families = [{row["family"] for row in pool} for pool in (train, heldout)]
    assert all(families)
    assert families[0].isdisjoint(families[1])
