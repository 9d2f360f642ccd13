"""Checkpoints, read without running any code in them and held against the configuration and the model."""

import hashlib
import inspect
import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse._typehints import import_object
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import TorchCheckpointIO

from lvm_lightning.command.older import OLDER, migrate
from lvm_lightning.support import PROGRAM, UserError, replacing

TRAINING_ONLY = ("optimizer", "lr_scheduler")
"""Model arguments that may differ between a checkpoint and the configuration that evaluates it."""

SEAL, END = b"lvm-lightning sha256 ", b"PK\5\6"
"""Before a checkpoint's digest; at the beginning of the last record of a zip file, which is 22 bytes and a comment."""
SETTINGS = "lvm_lightning_settings"
"""Key of :func:`settings_of` in a checkpoint."""
TRAINER_SETTINGS = (
    *("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("limit_train_batches", "overfit_batches"),
)
"""Settings of the trainer that the steps depend on."""
TRAINING = ("optimizer_states", "loops", "callbacks")
"""What a training goes on with besides the weights."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, loaded without running any code in it.

    Raises:
        UserError: if the file is missing, is damaged, is not a checkpoint of this package, or has a weight that is no
            number.
    """
    try:
        content = path.read_bytes()
        whole = is_whole(content)
        with warnings.catch_warnings():
            # torch warns of another protocol and then reads the file all the same, or refuses it
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            checkpoint = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu") if whole else None
    except FileNotFoundError:
        raise UserError(f"ckpt_path: no such file: {path}; give a checkpoint that '{PROGRAM} fit' wrote") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"ckpt_path: {path} is not a readable checkpoint ({type(error).__name__}); give one of '{PROGRAM} fit'"
        ) from error
    if not whole:
        raise UserError(f"ckpt_path: {path} is damaged, its checksum is not the one that was written; give another one")
    if checkpoint is None or not _is_of_a_model(checkpoint):
        raise UserError(f"ckpt_path: {path} holds no trained model; give a checkpoint that '{PROGRAM} fit' wrote")
    for name, weight in checkpoint["state_dict"].items():
        if not bool(weight.isfinite().all()):
            worst = float(weight[~weight.isfinite()][0])
            raise UserError(
                f"ckpt_path: every weight must be a number, got {worst:g} in {name} of {path}; give another one"
            )
    return migrate(checkpoint)


def _is_of_a_model(checkpoint: Any) -> bool:
    """Whether a checkpoint has weights by name, and settings where it has them."""
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return False
    settings = (checkpoint.get(name, {}) for name in ("hyper_parameters", SETTINGS))
    weights = checkpoint["state_dict"].values()
    return all(isinstance(weight, torch.Tensor) for weight in weights) and all(isinstance(s, dict) for s in settings)


def require_weights(path: Path, checkpoint: dict[str, Any], model: LightningModule, subcommand: str) -> None:
    """Refuse a checkpoint that lacks what the model, or the rest of a training, has to go on with.

    Raises:
        UserError: naming the first thing that is missing or differs.
    """
    held, wanted = (
        {name: tuple(weight.shape) for name, weight in weights.items()}
        for weights in (checkpoint["state_dict"], model.state_dict())
    )
    for name in sorted(wanted.keys() | held.keys()) if model.strict_loading else ():
        if held.get(name) != wanted.get(name):
            has, needs = (f"shape {found[name]}" if name in found else "none" for found in (held, wanted))
            raise UserError(
                f"ckpt_path: the weights must be those of the model, got {name} with {has} in {path}, the model has "
                f"{needs}; give a checkpoint of this model"
            )
    lacking = [name for name in TRAINING if subcommand == "fit" and not checkpoint.get(name)]
    if lacking:
        raise UserError(
            f"ckpt_path: training goes on from weights, {' and '.join(TRAINING)}, got no {lacking[0]} in {path}; give "
            "the run's last.ckpt, or train anew"
        )


def sealed(content: bytes) -> bytes:
    """The archive that ``torch.save`` wrote, with its SHA-256 as the comment that a zip file may end with."""
    comment = SEAL + hashlib.sha256(content[:-2]).hexdigest().encode()
    return content[:-2] + len(comment).to_bytes(2, "little") + comment


def is_whole(content: bytes) -> bool:
    """Whether an archive is what was written, to the bit: torch looks at no checksum, and reads a damaged one too.

    Raises:
        zipfile.BadZipFile: if it is no archive.
    """
    seal = len(SEAL) + 64
    if content[-seal - 22 : -seal - 18] == END:
        return sealed(content[: -seal - 2] + b"\0\0") == content
    if content[-22:-18] != END:
        raise zipfile.BadZipFile("the end is missing")
    return zipfile.ZipFile(io.BytesIO(content)).testzip() is None  # an older one, whose records have a CRC each


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and whose reading runs no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it beside ``path``, force it onto the disk, and put it in its place in one step.

        Lightning's own goes through the folder of temporary files, which may lie on another disk. What is no file of
        this machine (``s3://…``) is left to it.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path), durable=True) as file:
            file.write(sealed(content.getvalue()))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """As :func:`read_checkpoint`, whatever is asked."""
        return read_checkpoint(Path(path))


def require_same_model(path: Path, checkpoint: dict[str, Any], model: dict[str, Any], subcommand: str) -> None:
    """Refuse a checkpoint whose class or hyper-parameters are not the configuration's.

    One that does not know an argument is of a time when the class had none, and did what the default does.

    Raises:
        UserError: naming the first difference, both values and the cure.
    """
    saved = dict(checkpoint.get("hyper_parameters", {}))
    configured = {"class_path": model["class_path"], **model.get("init_args", {}), **model.get("dict_kwargs", {})}
    saved["class_path"] = saved.pop("_class_path", None)
    saved.pop("_instantiator", None)
    ignored, defaults = () if subcommand == "fit" else TRAINING_ONLY, _defaults(model["class_path"])
    for name in sorted(configured.keys() | saved.keys(), key=lambda name: name != "class_path"):
        if name not in saved and name in defaults:
            saved[name] = defaults[name]
        if name not in ignored and _said(configured.get(name)) != _said(saved.get(name)):
            raise UserError(
                f"model.{name}: the checkpoint was trained with {saved.get(name)!r}, the configuration says "
                f"{configured.get(name)!r}; use the run's own configuration, --config {run_of(path) / 'config.yaml'}"
            )


def _defaults(class_path: str) -> dict[str, Any]:
    """The plain default values of a class's arguments."""
    defaults = {p.name: p.default for p in inspect.signature(import_object(class_path)).parameters.values()}
    return {name: value for name, value in defaults.items() if isinstance(value, bool | int | float | str)}


def _said(value: Any) -> Any:
    """A plain value without what is none: an argument that a class did not have yet is one that is not set."""
    if not isinstance(value, dict):
        return value
    return {name: said for name, inner in value.items() if (said := _said(inner)) is not None and said != {}}


def settings_of(configuration: dict[str, Any]) -> dict[str, Any]:
    """What the steps of a run depend on besides the model, of a configuration in plain values."""
    data, trainer = dict(configuration.get("data") or {}), configuration.get("trainer") or {}
    chosen = {name: value for name, value in (data.get("init_args") or {}).items() if name != "folder"}
    return {
        "seed_everything": configuration.get("seed_everything"),
        "data": {"class_path": data.get("class_path"), **chosen},
        "trainer": {name: trainer.get(name) for name in TRAINER_SETTINGS},
    }


def require_same_run(path: Path, checkpoint: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Refuse to go on with another seed or other data; what else differs is told.

    Args:
        path: the checkpoint's.
        checkpoint: its content.
        settings: :func:`settings_of` the configuration.

    Returns:
        A sentence for each setting of the trainer that differs: the user may want to change it.

    Raises:
        UserError: naming the first difference that is not allowed, both values and the cure.
    """
    if OLDER in checkpoint:
        raise UserError(
            f"ckpt_path: {path} is of an older version, whose training cannot go on exactly; test it, or train anew"
        )
    saved = checkpoint.get(SETTINGS)
    if saved is None:
        return []
    pairs = {"seed_everything": (saved["seed_everything"], settings["seed_everything"])}
    for name in saved["data"].keys() | settings["data"].keys():
        pairs[f"data.{name}"] = (saved["data"].get(name), settings["data"].get(name))
    for name, (then, now) in sorted(pairs.items(), key=lambda item: item[0] != "data.class_path"):
        if then != now:
            raise UserError(
                f"{name}: the run was started with {then!r}, the configuration says {now!r}; go on with the run's own, "
                f"--config {run_of(path) / 'config.yaml'}"
            )
    then, now = saved["trainer"], settings["trainer"]
    changed = [name for name in then if then[name] != now[name]]
    return [f"trainer.{n}: the run was started with {then[n]!r} and goes on with {now[n]!r}" for n in changed]


def run_of(checkpoint: Path) -> Path:
    """Folder of the run that wrote a checkpoint: ``<run>/checkpoints/<name>.ckpt``."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
