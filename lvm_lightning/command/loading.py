"""A trained module, for Python."""

from pathlib import Path

from lightning.pytorch.cli import instantiate_module

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.command.naming import state_of
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support import UserError


def load(run: str | Path) -> LatentVariableModule:
    """See :func:`lvm_lightning.load`."""
    path = state_of(Path(run).expanduser(), "test")
    checkpoint = read_checkpoint(path)
    settings = {name: value for name, value in checkpoint["hyper_parameters"].items() if name != "_instantiator"}
    if "_class_path" not in settings:
        raise UserError(
            f"run: must be of the command, whose checkpoints say which class they are of, got {path}; use the class's "
            "load_from_checkpoint"
        )
    module: LatentVariableModule = instantiate_module(LatentVariableModule, settings)  # type: ignore[type-abstract]
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval()
