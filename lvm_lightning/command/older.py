"""What was called otherwise in an older version, in its checkpoints, its configs and its command lines."""

from typing import Any

OLDER = "lvm_lightning_older"
"""Key in a checkpoint whose weights had other names: it can be tested, but its training cannot go on exactly."""
ROOMS = {"likelihoods": "densities", "priors": "densities", "proposals": "densities", "optimizers": "networks"}
"""Where a public class was → where it is."""
NEW_SETTINGS = {
    "model.test_samples": "evaluation.samples",
    "model.test_widen": "evaluation.widen",
    "model.quadrature_spacing": "evaluation.spacing",
    "model.kl_warmup_steps": "model.kl_warmup, a share of the training",
    "model.alpha": "model.bound, Renyi with its alpha (none for alpha 0)",
}
"""What a setting was called → what it is called."""
WITHOUT_BOUND = ("PriorIWAE", "GaussianVAE", "ExponentialPosterior")
"""Modules that once had no argument for their bound."""
WEIGHTS = ("prior.", "decoder.", "likelihood.")
"""What the name of a weight began with that is now one of the ``model.``'s."""


def new_name(path: str) -> str:
    """The import path of a class today."""
    package, *inner = path.split(".")
    moved = package == "lvm_lightning" and len(inner) > 1 and inner[0] in ROOMS
    return f"{package}.{ROOMS[inner[0]]}.{inner[-1]}" if moved else path


def new_setting(key: str) -> str | None:
    """What replaces a setting that is gone."""
    return NEW_SETTINGS.get(key.replace("init_args.", ""))


def migrate(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint under today's names: its class paths, its settings and its weights. One of today stays as it is.

    Settings are renamed in this package's modules alone: in a user's own, ``alpha`` is what he says it is.
    """
    settings = _renamed(checkpoint.get("hyper_parameters", {}))
    package, _, name = str(settings.get("_class_path")).rpartition(".")
    if package.startswith("lvm_lightning.modules"):
        if "bound" not in settings and name in WITHOUT_BOUND:
            settings["bound"] = _bound(settings.get("alpha", 0.0))
        settings = {name: value for name, value in settings.items() if f"model.{name}" not in NEW_SETTINGS}
    weights = checkpoint["state_dict"]
    renamed = {f"model.{name}" if name.startswith(WEIGHTS) else name: value for name, value in weights.items()}
    found = checkpoint | {"hyper_parameters": settings, "state_dict": renamed}
    return found if renamed.keys() == weights.keys() else found | {OLDER: True}


def _bound(alpha: float) -> str | dict[str, Any]:
    """The bound that a module without the argument had: the Rényi bound of order α, by default 0."""
    objectives = "lvm_lightning.objectives"
    return {"class_path": f"{objectives}.Renyi", "init_args": {"alpha": alpha}} if alpha else f"{objectives}.iw_elbo"


def _renamed(value: Any) -> Any:
    """The same plain value with every class path renamed."""
    if isinstance(value, dict):
        return {name: _renamed(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(inner) for inner in value)
    return new_name(value) if isinstance(value, str) else value
