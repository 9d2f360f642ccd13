"""Checkpoints, read without running any code in them and held against the configuration."""

import pickle
from pathlib import Path
from typing import Any

import torch

from lvm_lightning.errors import PROGRAM, UserError

TRAINING_ONLY = ("optimizer", "lr_scheduler")
"""Model arguments that may differ between a checkpoint and the configuration that evaluates it."""
EVALUATION_ONLY = ("test_samples", "test_widen", "quadrature_spacing")
"""Model arguments that have no part in training, and may always differ."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, loaded without running any code in it.

    Raises:
        UserError: if the file is missing or is not a checkpoint of this package.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"ckpt_path: no such file: {path}; give a checkpoint that '{PROGRAM} fit' wrote") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"ckpt_path: {path} is not a readable checkpoint ({type(error).__name__}); give one of '{PROGRAM} fit'"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"ckpt_path: {path} holds no trained model; give a checkpoint that '{PROGRAM} fit' wrote")
    return checkpoint


def require_same_model(path: Path, checkpoint: dict[str, Any], model: dict[str, Any], subcommand: str) -> None:
    """Refuse a checkpoint whose class or hyper-parameters are not the configuration's.

    Raises:
        UserError: naming the first difference, both values and the cure.
    """
    saved = dict(checkpoint.get("hyper_parameters", {}))
    configured = {
        "class_path": model["class_path"],
        **model.get("init_args", {}),
        **model.get("dict_kwargs", {}),
    }
    saved["class_path"] = saved.pop("_class_path", None)
    saved.pop("_instantiator", None)
    ignored = EVALUATION_ONLY if subcommand == "fit" else EVALUATION_ONLY + TRAINING_ONLY
    for name in sorted(configured.keys() | saved.keys(), key=lambda name: name != "class_path"):
        if name not in ignored and configured.get(name) != saved.get(name):
            raise UserError(
                f"model.{name}: the checkpoint was trained with {saved.get(name)!r}, the configuration says "
                f"{configured.get(name)!r}; use the run's own configuration, --config {run_of(path) / 'config.yaml'}"
            )


def run_of(checkpoint: Path) -> Path:
    """Folder of the run that wrote a checkpoint: ``<run>/checkpoints/<name>.ckpt``."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
