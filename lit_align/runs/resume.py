"""A command that goes on with a run finds it and its checkpoint, and tells what has changed since."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only

import lit_align
from lit_align.judges.base import Judge
from lit_align.run_folder import RunFolder, trusted_checkpoint
from lit_align.utils.files import write_text

Config = dict[str, Any]
"""A merged config is nested dictionaries."""

# These say where a run is put, how it is shown, and what is asked of it next: they are never a difference.
_PLACES = (
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
    "trainer.default_root_dir",
    "trainer.run",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.profiler",
    "trainer.profile",
    "trainer.enable_progress_bar",
    "trainer.enable_checkpointing",
    "trainer.log_every_n_steps",
    "trainer.max_time",
    "data.test",
)
# These say how long it goes on, on what machines, and how patiently: it is the same run, but they are told.
_FREE = (
    "trainer.max_epochs",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "model.sampler.token_budget",
)
_JUDGES = ("model.judge", "model.eval_judges")


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted name without ``init_args``; one that a config lacks is None there.

    A class is the same whatever path names it.
    """
    before, after = _flat(old), _flat(new)
    classes = _class_names(old) & _class_names(new)
    names = sorted(name for name in before.keys() | after.keys() if not _under(name, _PLACES))
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _mean_the_same(*pair, classes=name in classes)}


def prepare(config: Config, ckpt_path: str | None, run: str | None, fits: bool) -> tuple[Path | None, Path | None]:
    """Return the run folder and checkpoint that a command goes on with; what has changed since is printed.

    Args:
        config: The merged config of this command.
        ckpt_path: A checkpoint, a run folder for its last one, ``last`` (the newest run of the same config), or None.
        run: A run folder that was asked for.
        fits: Whether this is ``fit``, which can go on from rollouts alone.

    Returns:
        The folder, None for a new one; and a whole checkpoint, None for the beginning.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        ValueError: The checkpoint and all before it are damaged, and this is not ``fit``, or it lies outside a run, so
            that there is no other beginning to go on from.
    """
    if ckpt_path is None:
        return (None if run is None else Path(run)), None
    folder: RunFolder | None
    path: Path | None
    if ckpt_path == "last":
        folder = _newest_run(config, fits)
        path = folder.last if folder.written_checkpoints() else None
    else:
        path = Path(ckpt_path)
        if RunFolder(path).config.is_file():  # the run itself stands for its last checkpoint
            path = RunFolder(path).last
        around = RunFolder.around(path)
        folder = around if around.checkpoints == path.parent else None
    checkpoint = None if path is None else trusted_checkpoint(path)
    if checkpoint is None and (not fits or folder is None):
        raise ValueError(f"ckpt_path: {path} is damaged, and there is no checkpoint before it")
    if fits and folder is not None:
        _tell(folder, checkpoint, config)
    if run is not None:
        return Path(run), checkpoint
    return (None if folder is None else folder.path), checkpoint


def keep_config(folder: RunFolder, text: str) -> None:
    """Leave the config in the run folder; one that differs makes room as ``config-1.yaml``, ``config-2.yaml``, ..."""
    if folder.config.exists():
        old = folder.config.read_text()
        if not differences(yaml.safe_load(old), yaml.safe_load(text)):
            return
        write_text(folder.older_config(1 + len(folder.older_configs)), old)
    write_text(folder.config, text)


def _newest_run(config: Config, fits: bool) -> RunFolder:
    """Return the run under the root that went on last, of those with the same config."""
    root = Path(config["trainer"]["default_root_dir"])
    runs = sorted(RunFolder.all_under(root), key=RunFolder.last_written, reverse=True)
    runs = runs if fits else [run for run in runs if run.written_checkpoints()]
    if not runs:
        raise FileNotFoundError(f"--ckpt_path last: there is no run{'' if fits else ' with a checkpoint'} under {root}")
    changed = {run: _differences_of_runs(run, config, fits) for run in runs}
    for run in runs:
        if not changed[run]:
            return run
    nearest = min(runs, key=lambda run: len(changed[run]))
    there = f"--ckpt_path {nearest.last}" if nearest.written_checkpoints() else f"--trainer.run {nearest.path}"
    raise FileNotFoundError(
        f"--ckpt_path last: no run under {root} has this config. In the nearest, {nearest.path.name}, "
        f"{_listed(changed[nearest])}; to go on with it all the same: {there}"
    )


def _differences_of_runs(run: RunFolder, config: Config, fits: bool) -> dict[str, tuple[Any, Any]]:
    """Return what makes it another run; to look at one, only the policy counts."""
    changed = differences(yaml.safe_load(run.config.read_text()), config)
    if fits:
        return {name: values for name, values in changed.items() if not _is_free(name)}
    return {name: values for name, values in changed.items() if _under(name, ("model.policy",))}


@rank_zero_only
def _tell(run: RunFolder, checkpoint: Path | None, config: Config) -> None:
    start = "the beginning" if checkpoint is None else checkpoint.name
    print(f"going on with {run.path} from {start}", file=sys.stderr)
    changed = differences(yaml.safe_load(run.config.read_text()), config) if run.config.exists() else {}
    for name, (old, new) in changed.items():
        print(f"  {name}: {old} -> {new}", file=sys.stderr)


def _listed(changed: dict[str, tuple[Any, Any]], most: int = 2) -> str:
    shown = [f"{name} is {old}, not {new}" for name, (old, new) in list(changed.items())[:most]]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return ", ".join(shown) + more


def _mean_the_same(old: Any, new: Any, *, classes: bool) -> bool:
    """Return whether two values are equal, or two paths of one class or function.

    What differs is imported to be compared only where both are paths of ``classes``; any other text is not.
    """
    if old == new:
        return True
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(not differences({"value": a}, {"value": b}) for a, b in zip(old, new, strict=True))
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    if classes:
        return bool(_found_at(old) == _found_at(new))
    public = _public_name(old)
    return public is not None and public == _public_name(new)


def _public_name(path: str) -> str | None:
    """Return the public name of ours that a path means, one of a former version too; None where it means none."""
    module, _, name = path.rpartition(".")
    return name if name in lit_align.HOME and f"{module}.".startswith(("lit_align.", ".")) else None


def _found_at(path: str) -> Any:
    """Return the object that a path means; the text itself where there is none."""
    public = _public_name(path)
    if public is not None:
        return getattr(lit_align, public)
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception:  # what is not installed, or was moved away, fails in any way there is
        return path


def _class_names(config: Any, name: str = "") -> set[str]:
    """Return the dotted names, as :func:`_flat` gives them, of all values that are paths of classes."""
    if not isinstance(config, dict):
        return set()
    found = {name} if "class_path" in config else set()
    for key, value in config.items():
        found |= _class_names(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    return found


def _flat(config: Any, name: str = "") -> Config:
    """Return all values by dotted name; a class is the value of what it is an instance for."""
    if not isinstance(config, dict) or not config:
        return {name: config}
    flat: Config = {}
    for key, value in config.items():
        inner = name if key in ("init_args", "class_path") else f"{name}.{key}".lstrip(".")
        flat |= _flat(value, inner)
    return flat


def _is_free(name: str) -> bool:
    return _under(name, _FREE) or (_under(name, _JUDGES) and name.rpartition(".")[2] in Judge.indifferent)


def _under(name: str, keys: tuple[str, ...]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in keys)
