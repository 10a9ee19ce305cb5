"""The config of a run that was made in Python, as far as YAML can say it: what ``export`` and ``-c RUN`` take.

What it cannot say, such as a lambda or a list of rows, stands there as a note. Whoever uses the config is told, and may
give something else in its place.
"""

import inspect
import logging
from abc import ABC
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import yaml

import lit_align
from lit_align.judges.identity import is_ours
from lit_align.run_folder import RunFolder
from lit_align.sampling.uniforms import run_seed
from lit_align.utils.arguments import built_with
from lit_align.utils.code_digests import is_installed

log = logging.getLogger(__name__)

_HEAD = f"# lightning.pytorch=={L.__version__}\n"  # the command line leaves the same
_NOTE = "<handed over in Python: "
_TRAINER = (
    *("max_epochs", "num_nodes", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "check_val_every_n_epoch", "limit_val_batches"),
)


def leave_config(module: L.LightningModule, trainer: L.Trainer) -> None:
    """Write the config of a run into its folder, beside the checkpoints; all ranks call it.

    Its callbacks and loggers are not in it. A file of that name that no run has left stays as it is.

    Args:
        module: Has noted the arguments it was built with, as its data have.
        trainer: Any Lightning trainer.
    """
    folder = RunFolder(Path(trainer.log_dir or trainer.default_root_dir))
    if not trainer.is_global_zero:
        return
    text = _HEAD + yaml.safe_dump(config_of(module, trainer, folder), sort_keys=False)
    there = folder.config.read_text() if folder.config.exists() else None
    if there is not None and not there.startswith(_HEAD.partition("==")[0]):
        log.warning("%s is not of a run, and stays as it is: this run leaves no config", folder.config)
    elif there is None or yaml.safe_load(there) != yaml.safe_load(text):
        folder.replace_config(text)


def config_of(module: L.LightningModule, trainer: L.Trainer, folder: RunFolder) -> dict[str, Any]:
    """What a run was built with, as a command line would say it.

    Args:
        module: What trains.
        trainer: What trains it, with its data.
        folder: Of the run.
    """
    settings = {name: said(getattr(trainer, name)) for name in _TRAINER}
    device = {"accelerator": trainer.strategy.root_device.type, "devices": trainer.num_devices}
    return {
        "seed_everything": run_seed(),
        "trainer": {"default_root_dir": str(folder.path.parent), **device, **settings},
        "model": said(module),
        "data": said(trainer.datamodule),  # type: ignore[attr-defined]
    }


def notes(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Settings that a config cannot say, by dotted name without ``init_args``, and what was handed over for each.

    Args:
        config: A config or a part of one.
        name: Of the part.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from notes(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    elif isinstance(config, list):
        for value in config:
            yield from notes(value, name)
    elif isinstance(config, str) and config.startswith(_NOTE):
        yield name, config.removeprefix(_NOTE).removesuffix(">")


def refuse_notes(config: Any, path: str) -> None:
    """Refuse what a config cannot say, in one line.

    Args:
        config: What is used of it.
        path: What the message calls the config.

    Raises:
        ValueError: There is such a setting.
    """
    for name, what in notes(config):
        raise ValueError(f"{path}: {name} was {what}, handed over in Python, which no config can say: give --{name}")


def said(value: Any) -> Any:
    """A value as YAML has it; a note of one that YAML cannot say."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, str) and hasattr(value, "value") else value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): said(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _note(value) if any(isinstance(item, Mapping) for item in value) else [said(item) for item in value]
    if isinstance(value, partial) and not value.args:
        return _instance(value.func, _defaults(value.func) | value.keywords)
    if inspect.isclass(value):
        return _instance(value, _defaults(value))
    if inspect.isroutine(value):
        return _path(value) or _note(value)
    arguments = built_with(value) if hasattr(value, "__dict__") else {}
    return _instance(type(value), arguments) if arguments or _takes_nothing(type(value)) else _note(value)


def _takes_nothing(kind: type) -> bool:
    """Whether it is a class of this package or of the user's that is built without arguments."""
    bases = [base for base in kind.__mro__ if base not in (object, ABC)]
    of_others = is_installed(kind.__module__) and not is_ours(kind.__module__)
    return not of_others and not any("__init__" in vars(base) or "__new__" in vars(base) for base in bases)


def _instance(kind: Any, arguments: Mapping[str, Any]) -> Any:
    path = _path(kind)
    return _note(kind) if path is None else {"class_path": path, "init_args": said(dict(arguments))}


def _defaults(kind: Any) -> dict[str, Any]:
    """What a class or function takes if nobody says otherwise."""
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _path(thing: Any) -> str | None:
    """The public name of a class or function, or its dotted path; None where it has none."""
    module, name = thing.__module__, thing.__qualname__
    if name in lit_align.HOME and getattr(lit_align, name) is thing:
        return f"lit_align.{name}"
    if module in (None, "__main__") or "<" in name or "." in name:
        return None
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return f"{module}.{name}" if found is thing else None


def _note(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    if name is not None:
        what = "a lambda" if name.endswith("<lambda>") else f"{name} of {value.__module__}"
    elif isinstance(value, list | tuple):
        what = f"a {type(value).__name__} of {len(value)} rows"
    else:
        what = f"a {type(value).__name__}"
    return f"{_NOTE}{what}>"
