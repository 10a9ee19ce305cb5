"""A file is whole or not there."""

import os

import pytest

from lit_align.utils.files import replace_link, write_text, write_whole


def test_what_is_written_is_there_in_a_folder_that_was_not(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "naïve ☀\n")
    assert path.read_bytes() == "naïve ☀\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("fault", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_a_write_that_does_not_end_leaves_what_was_there(tmp_path, fault):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def half(file):
        file.write(b"aft")
        raise fault

    with pytest.raises(fault):
        write_whole(path, half)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_is_replaced_at_once_and_moves_with_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    for name in ("first", "second"):
        write_text(folder / name, name)
        replace_link(folder / "last", folder / name)
        assert (folder / "last").read_text() == name
    folder.rename(tmp_path / "there")
    link = tmp_path / "there" / "last"
    assert os.readlink(link) == "second"

    def without(path, target, **options):
        raise OSError("no links here")

    monkeypatch.setattr(type(link), "symlink_to", without)
    replace_link(link, link.with_name("first"))
    assert link.read_text() == "second"
    assert sorted(file.name for file in link.parent.iterdir()) == ["first", "last", "second"]
