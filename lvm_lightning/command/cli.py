"""The command ``lvm-lightning``: its subcommands, its exit status, and one line for every mistake."""

import sys
import warnings

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningCLI

from lvm_lightning.command.lightning_cli import CLI
from lvm_lightning.command.messages import advertisements_left_out, process_rank
from lvm_lightning.command.parsing import Parser
from lvm_lightning.command.runs import SaveRunConfig
from lvm_lightning.command.studies import run_free, study_named
from lvm_lightning.command.trainer import Trainer
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.studies import FreeStudy
from lvm_lightning.support.errors import PROGRAM, Stopped, StopSignals, UserError, debugging, one_line

DESCRIPTION = (
    f"Latent-variable models on PyTorch Lightning. '{PROGRAM} compare RUN RUN …' puts runs side by side, '{PROGRAM} "
    f"log_space' shows why log space, '{PROGRAM} my_module.MyStudy' runs a study of your own."
)


def main() -> int:
    """Run the command.

    Returns:
        Its exit status: 0, 1 for a failure, 2 for wrong arguments, 130 after Ctrl-C, 143 after SIGTERM.
    """
    stop = StopSignals()
    stop.install()
    try:
        word = sys.argv[1] if len(sys.argv) > 1 else ""
        study = study_named(word, list(LightningCLI.subcommands())) if word else None
        if study is not None and issubclass(study, FreeStudy):
            run_free(study, word, sys.argv[2:])
            return 0
        with warnings.catch_warnings(), advertisements_left_out():
            # Lightning 2.6 calls this under torch 2.15; nothing that a user can change.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # The summary then counts bytes as for float32, and says so.
            warnings.filterwarnings("ignore", r"Precision .* is not supported by the model summary")
            # A run's folder is new unless the user resumes it, and then its checkpoints are meant to be there.
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
            CLI(
                stop=stop,
                study=study,
                trainer_class=Trainer,
                model_class=LatentVariableModule,
                subclass_mode_model=True,
                datamodule_class=pl.LightningDataModule,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={"prog": PROGRAM, "description": DESCRIPTION},
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                auto_configure_optimizers=False,
            )
    except Stopped as stopped:
        if not stopped.alone:
            return 0
        print("; ".join(filter(None, [f"{PROGRAM}: {stopped}", stopped.advice])), file=sys.stderr)
        return stopped.status
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    except Exception as error:
        if debugging():
            raise
        rank = f"[process {process_rank()}] " if process_rank() else ""
        print(f"{PROGRAM}: error: {rank}{one_line(str(error) or type(error).__name__)}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    finally:
        stop.restore()
    return 0
