"""What an older config, command line or checkpoint calls by another name."""

from typing import Any

OLDER = "lvm_lightning_older"
"""Key in a checkpoint whose weights had other names: it can be tested, but its training cannot go on exactly."""
CLASSES = {
    "lvm_lightning.likelihoods.": "lvm_lightning.densities.",
    "lvm_lightning.priors.": "lvm_lightning.densities.",
    "lvm_lightning.proposals.": "lvm_lightning.densities.",
    "lvm_lightning.optimizers.": "lvm_lightning.networks.",
}
"""Where a public class was → where it is."""
SETTINGS = {
    "model.test_samples": "evaluation.samples",
    "model.test_widen": "evaluation.widen",
    "model.quadrature_spacing": "evaluation.spacing",
    "model.alpha": "model.bound, Renyi with its alpha (none for alpha 0)",
}
"""What a setting was called → what it is called."""
WEIGHTS = {f"{part}.": f"model.{part}." for part in ("prior", "decoder", "likelihood")}
"""What the name of a weight began with → what it begins with."""


def new_name(path: str) -> str:
    """The import path of a class today."""
    for old, new in CLASSES.items():
        if path.startswith(old):
            return new + path.rpartition(".")[2]
    return path


def new_setting(key: str) -> str | None:
    """What replaces a setting that is gone."""
    return SETTINGS.get(key.replace("init_args.", ""))


def migrate(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint under today's names: its class paths, its settings and its weights. One of today stays as it is."""
    settings = _renamed(checkpoint.get("hyper_parameters", {}))
    if str(settings.get("_class_path")).startswith("lvm_lightning.modules.") and "bound" not in settings:
        settings["bound"] = _bound(settings.pop("alpha", 0.0))
    for old in SETTINGS:
        settings.pop(old.removeprefix("model."), None)
    weights = checkpoint["state_dict"]
    renamed = {_new_weight(name): value for name, value in weights.items()}
    found = checkpoint | {"hyper_parameters": settings, "state_dict": renamed}
    return found if renamed.keys() == weights.keys() else found | {OLDER: True}


def _bound(alpha: float) -> str | dict[str, Any]:
    """The bound that a module without the argument had: the Rényi bound of order α, by default 0."""
    objectives = "lvm_lightning.objectives"
    return {"class_path": f"{objectives}.Renyi", "init_args": {"alpha": alpha}} if alpha else f"{objectives}.iw_elbo"


def _new_weight(name: str) -> str:
    old = next((old for old in WEIGHTS if name.startswith(old)), None)
    return name if old is None else WEIGHTS[old] + name.removeprefix(old)


def _renamed(value: Any) -> Any:
    """The same plain value with every class path renamed."""
    if isinstance(value, dict):
        return {name: _renamed(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(inner) for inner in value)
    return new_name(value) if isinstance(value, str) else value
