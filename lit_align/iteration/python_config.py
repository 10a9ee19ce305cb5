"""A run that was made in Python leaves a config as well, as far as YAML can say it, for ``export`` and ``-c RUN``.

What it cannot say, such as a lambda or a list of rows, is left out and noted in a comment. Whoever uses the config is
told, and may give something else in its place.
"""

import inspect
import logging
import re
from abc import ABC
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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

_HEAD = f"# lightning.pytorch=={L.__version__}\n"  # the command line writes the same
_NOTED = re.compile(r"^# handed over in Python: (\S+), (.*)$", re.MULTILINE)
_TRAINER = (
    *("max_epochs", "num_nodes", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "check_val_every_n_epoch", "limit_val_batches"),
)


@dataclass(frozen=True)
class _HandedOver:
    """Stands for what YAML cannot say, and says what it was."""

    what: str


def leave_config(module: L.LightningModule, trainer: L.Trainer) -> None:
    """Write the config of a run into its folder, beside the checkpoints; all ranks call it.

    Its callbacks and loggers are not in it. A file of that name that no run has left stays as it is. The module has
    noted the arguments that it was built with, as its data have.
    """
    folder = RunFolder(Path(trainer.log_dir or trainer.default_root_dir))
    if not trainer.is_global_zero:
        return
    config, notes = apart(config_of(module, trainer, folder))
    head = _HEAD + "".join(f"# handed over in Python: {name}, {what}\n" for name, what in notes.items())
    text = head + yaml.safe_dump(config, sort_keys=False)
    there = folder.config.read_text() if folder.config.exists() else None
    if there is not None and not there.startswith(_HEAD.partition("==")[0]):
        log.warning("%s is not of a run, and stays as it is: this run leaves no config", folder.config)
    elif there != text:
        folder.replace_config(text)


def config_of(module: L.LightningModule, trainer: L.Trainer, folder: RunFolder) -> dict[str, Any]:
    """Return what a run was built with, as a command line would say it."""
    settings = {name: said(getattr(trainer, name)) for name in _TRAINER}
    device = {"accelerator": trainer.strategy.root_device.type, "devices": trainer.num_devices}
    return {
        "seed_everything": run_seed(),
        "trainer": {"default_root_dir": str(folder.path.parent), **device, **settings},
        "model": said(module),
        "data": said(trainer.datamodule),  # type: ignore[attr-defined]
    }


def apart(config: Any, name: str = "") -> tuple[Any, dict[str, str]]:
    """Return a config without what YAML cannot say, and what that is, by dotted name without ``init_args``.

    ``config`` is what :func:`said` gives, or the part of it that has this name.
    """
    if not isinstance(config, Mapping):
        found = [item for item in (config if isinstance(config, list) else [config]) if isinstance(item, _HandedOver)]
        return (None, {name: found[0].what}) if found else (config, {})
    left: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for key, value in config.items():
        left[key], inner = apart(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
        notes |= inner
        if left[key] is None and inner:
            del left[key]
    return left, notes


def handed_over(text: str) -> dict[str, str]:
    """Return what a config notes that it cannot say: setting -> what was handed over for it."""
    return dict(_NOTED.findall(text))


def refuse_handed_over(text: str, path: str, *, under: str = "", instead: Collection[str] = ()) -> None:
    """Refuse a config that would say something else than the run was, in one line.

    Args:
        text: The config.
        path: What the message calls it.
        under: How the names of the settings that are used begin; by default all are used.
        instead: Settings that are given beside it.

    Raises:
        ValueError: A setting was handed over in Python, and nothing is given in its place.
    """
    for name, what in handed_over(text).items():
        # Another judge has no need of the function of the one before; another algorithm keeps policy and optimiser.
        given = any(
            other == name or other.startswith(f"{name}.") or ("." in other and name.startswith(f"{other}."))
            for other in instead
        )
        if name.startswith(under) and not given:
            raise ValueError(
                f"{path}: {name} was {what}, handed over in Python, which no config can say: give --{name}"
            )


def said(value: Any) -> Any:
    """Return a value as YAML has it; where YAML cannot say it, return what :func:`apart` then takes out."""
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
    """Say whether it is a class of this package or of the user's that is built without arguments."""
    bases = [base for base in kind.__mro__ if base not in (object, ABC)]
    of_others = is_installed(kind.__module__) and not is_ours(kind.__module__)
    return not of_others and not any("__init__" in vars(base) or "__new__" in vars(base) for base in bases)


def _instance(kind: Any, arguments: Mapping[str, Any]) -> Any:
    path = _path(kind)
    return _note(kind) if path is None else {"class_path": path, "init_args": said(dict(arguments))}


def _defaults(kind: Any) -> dict[str, Any]:
    """Return what a class or function takes if nobody says otherwise."""
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _path(thing: Any) -> str | None:
    """Return the public name of a class or function, or its dotted path; None where no path leads to it."""
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


def _note(value: Any) -> _HandedOver:
    name = getattr(value, "__qualname__", None)
    if name is not None:
        what = "a lambda" if name.endswith("<lambda>") else f"{name} of {value.__module__}"
    elif isinstance(value, list | tuple):
        what = f"a {type(value).__name__} of {len(value)} rows"
    else:
        what = f"a {type(value).__name__}"
    return _HandedOver(what)
