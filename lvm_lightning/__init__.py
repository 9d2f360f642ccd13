"""Latent-variable models on PyTorch Lightning.

One sentence holds the whole package: a latent-variable model p(x, z) and a proposal q(z|x) give log
importance weights ``log_w = log p(x, z) − log q(z|x)``, and a bound is a pure function of ``log_w``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvm_lightning.modules.base import LatentVariableModule

__version__ = "0.1.0"


def load(run: str | Path) -> "LatentVariableModule":
    """The trained module of a run: its best state on validation where there is one, or that of a checkpoint.

    What it can be asked::

        model = lvm_lightning.load("runs/prior_iwae/version_0")
        model.sample(64).x, model.encode(x), model.reconstruct(x), model.log_prob(x).value

    No code in the checkpoint is run, but the classes that it names are imported.

    Args:
        run: the run's folder, or a checkpoint.

    Raises:
        UserError: if there is no checkpoint, or it cannot be read.
    """
    from lvm_lightning.command.loading import load as load_run

    return load_run(run)
