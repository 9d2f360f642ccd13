"""What the numbers of a module on some data are about."""

import platform
from importlib.metadata import distributions

import torch

from lvm_lightning.data.protocol import describe
from lvm_lightning.evaluation.plain import digest_of
from lvm_lightning.evaluation.report import Provenance, digest_of_weights
from lvm_lightning.modules.base import LatentVariableModule

PACKAGES = ("lvm-lightning", "torch", "lightning", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers go through; this one may run from its sources alone."""
    found = {name: [each.version for each in distributions(name=name)] for name in PACKAGES}
    return {"python": platform.python_version()} | {name: [*own, "not installed"][0] for name, own in found.items()}


def provenance(module: LatentVariableModule, data: object) -> Provenance:
    """Seed, data, settings, weights, device and versions."""
    said = describe(data)
    about = dict(said.about) if said is not None else {}
    own = [f"{type(e).__module__}.{type(e).__qualname__} {vars(e)}" for e in module.settings.evaluators]
    settings = vars(module.settings) | {"evaluators": own}
    return Provenance(
        seed=torch.initial_seed(),
        data=about,
        configuration=digest_of({"model": dict(module.hparams), "data": about, "evaluation": settings}),
        weights=digest_of_weights(module.state_dict()),
        device=str(module.device),
        versions=versions(),
    )


def name_of(module: LatentVariableModule) -> str:
    """What a figure calls a model: its class, K, and the samples of its bound."""
    outer = f"J = {module.J:,}, " if module.J > 1 else ""
    return f"{type(module).__name__}, K = {module.model.prior.dim:,}, {outer}N = {module.N:,}"
