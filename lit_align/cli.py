"""``python -m lit_align fit|validate|test|predict|plan|export`` is Lightning's CLI over the package's classes."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from lit_align import HOME
from lit_align.class_changes import own_settings_reset
from lit_align.compat import SubcommandCLI, option_names, values_as_typed
from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule
from lit_align.models.exporting.reload_check import Agreement
from lit_align.models.loading.adapters import LoRA
from lit_align.overlays import check_whole, in_order
from lit_align.plan.command import ConfiguredTrainer
from lit_align.run_folder import RunFolder
from lit_align.runs import resume
from lit_align.runs.export import export_parser, export_run
from lit_align.runs.trainer import Trainer
from lit_align.sampling.sampler import Sampler
from lit_align.utils.messages import arguments_of, one_line


class SaveConfig(Callback):
    """Leaves the merged config in the run folder, so that ``-c RUN`` runs it again, in a folder of its own.

    Args:
        parser: Dumps the config.
        config: The merged config of the subcommand.
        kwargs: Whatever else LightningCLI passes; unused.
    """

    def __init__(self, parser: Any, config: Any, **kwargs: Any) -> None:
        del kwargs
        again = config.clone()
        again["ckpt_path"] = again["trainer"]["run"] = None
        self.text = parser.dump(again, skip_unset=False)

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the config before anything else can fail; a run that goes on with another config has both."""
        folder = RunFolder(Path(trainer.default_root_dir))
        if trainer.is_global_zero and (stage == "fit" or not folder.config.exists()):
            resume.keep_config(folder, self.text)


class OneLineParser(LightningArgumentParser):
    """Says what is wrong in one line, without the usage of a hundred options; takes no shortened names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"error: {one_line(message, _settings(self))}", file=sys.stderr)
        sys.exit(2)

    @override
    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Remember the subcommands: Lightning's are methods of the Trainer, and ours need not be."""
        self.subcommands = super().add_subcommands(*args, **kwargs)
        return self.subcommands


class AlignmentCLI(SubcommandCLI):
    """Runs subcommands in subclass mode, with our Trainer, where the command line always wins over a checkpoint."""

    @override
    def add_further_subcommands(self, parser: Any) -> None:
        export = export_parser(OneLineParser)
        parser.subcommands.add_subcommand("export", export, help=export.description)

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's own, and the plan of what a run would need of memory."""
        return {**SubcommandCLI.subcommands(), "plan": {"model", "datamodule"}}

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build none for a plan, which is about devices that need not be here and needs no run folder."""
        if self.subcommand == "plan":
            return ConfiguredTrainer({**self.config_init[self.subcommand]["trainer"]})
        return super().instantiate_trainer(**kwargs)

    @override
    def before_instantiate_classes(self) -> None:
        """Keep the folder of a run that goes on; the command line wins over what it had."""
        config = self.config[self.subcommand]
        asked = config.get("ckpt_path"), config["trainer"].get("run")
        merged = {}  # a dump takes long: it is made only where there is a run to compare it with
        if asked[0] is not None:
            merged = yaml.safe_load(self.parser_of(self.subcommand).dump(config, skip_unset=False))
        run, checkpoint = resume.prepare(merged, *asked, fits=self.subcommand == "fit")
        config["ckpt_path"] = None if checkpoint is None else str(checkpoint)
        config["trainer"]["run"] = None if run is None else str(run)

    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse; unlike Lightning's, without a warning that arguments were given at all."""
        with own_settings_reset(), values_as_typed():
            self.config = parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> AlignmentCLI | Agreement:
    """Parse, build and run; callable in process.

    Args:
        args: Words as on the command line; None takes the command line itself.

    Returns:
        The CLI with its ``trainer``, ``model`` and ``datamodule``, after the run; from ``export``, how well what was
        written agrees.
    """
    arguments = _written_out(list(sys.argv[1:] if args is None else args))
    check_whole(arguments)
    for module in dict.fromkeys(HOME.values()):  # configs may name their classes without a path
        import_module(f"lit_align.{module}")
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=[Sampler, LoRA])
    if arguments[:1] == ["export"]:
        return export_run(**export_parser(OneLineParser).parse_args(arguments[1:]).as_dict())
    return AlignmentCLI(
        AlignmentModule,
        L.LightningDataModule,
        save_config_callback=SaveConfig,
        trainer_class=Trainer,
        parser_class=OneLineParser,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": "omegaconf+"},
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=arguments,
    )


def _settings(parser: OneLineParser) -> set[str]:
    """Return the dotted names of what a command line may set, as far as every algorithm and data module takes it."""
    common = {"model": AlignmentModule, "data": IterationData}
    inner = {f"{name}.{argument}" for name, kind in common.items() for argument in arguments_of(kind)}
    found = option_names(parser)
    return found | inner if common.keys() <= found else found


def _written_out(arguments: list[str]) -> list[str]:
    """Return the words in order; ``-c FOLDER`` means that folder's config.yaml, ``--profile`` the trainer's."""
    found = []
    words = [word for argument in arguments for word in _apart(argument)]
    for previous, argument in zip(["", *words], words, strict=False):
        if previous in ("-c", "--config") and Path(argument).is_dir():
            argument = str(RunFolder(Path(argument)).config)
        found.append("--trainer.profile=true" if argument == "--profile" else argument)
    return in_order(found)


def _apart(argument: str) -> list[str]:
    """Return ``-cFILE``, ``-c=FILE`` and ``--config=FILE`` as two words, any other argument as it is."""
    for start in ("--config=", "-c=", "-c"):
        if argument.startswith(start) and argument != start:
            return ["-c", argument.removeprefix(start)]
    return [argument]
