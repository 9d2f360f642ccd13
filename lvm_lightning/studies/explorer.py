"""What the page of a run needs to be asked about its model: weights, a decoded grid and images as plain data."""

import base64
import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.cli import instantiate_module
from torch import Tensor, nn

from lvm_lightning.data.protocol import examples
from lvm_lightning.densities import Bernoulli, DiagonalGaussian, StandardNormal
from lvm_lightning.evaluation import closed_forms
from lvm_lightning.evaluation.laplace import LaplaceProposal
from lvm_lightning.figures.page import Part
from lvm_lightning.modules import ExponentialPosterior
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP, ResidualMLP
from lvm_lightning.networks.residual import Block
from lvm_lightning.support import generator_for

SIDE, EXTENT = 61, 4.0
"""Points along one side of the decoded grid, and half its width."""
IMAGES, PRIOR_POINTS = 100, 1024
LEVELS = 2**15 - 1
"""A weight's levels: 16 bits with a scale for each row, which is four times as exact as float16."""
SEED = 0


def interactive(module: Callable[[], LatentVariableModule], data: Callable[[], pl.LightningDataModule | None]) -> Part:
    """The part of a page that asks a model: the plane, the toy, or a sentence why there is neither.

    Args:
        module: gives the model, on any device.
        data: gives its data, set up for a test.
    """
    try:
        with torch.no_grad():  # a proposal may need derivatives of the weights that are made here
            asked = module()
            if lacking := lacks(asked):
                return Part(notes=(f"No explorer: it needs {lacking}.",))
            if (given := data()) is None:
                return Part(notes=("No explorer: it needs a data module.",))
            if isinstance(asked, ExponentialPosterior):
                return Part(("toy",), {"toy": toy(asked, given)})
            explored = "axes" if asked.model.prior.dim > 2 else "explorer"
            return Part(("decoder", "plane", explored), {"explorer": answers(asked, given)})
    except Exception as error:  # a model and data of the user's own may fail in any way; the page has all the rest
        return Part(notes=(f"No explorer: {str(error).rstrip('.')}.",))


def data_of(settings: Mapping[str, Any]) -> pl.LightningDataModule:
    """The run's data module, set up for a test."""
    chosen = settings["data"]
    arguments = {"_class_path": chosen["class_path"], **(chosen.get("init_args") or {})}
    data: pl.LightningDataModule = instantiate_module(pl.LightningDataModule, arguments)
    data.prepare_data()
    data.setup("test")
    return data


def lacks(module: LatentVariableModule) -> str:
    """What a model lacks to be explored; nothing where it lacks nothing."""
    if isinstance(module, ExponentialPosterior):
        return ""
    model = module.model
    if model.prior.dim < 2 or not isinstance(model.prior, StandardNormal):
        return f"a standard normal prior with K ≥ 2, got {type(model.prior).__name__} with K = {model.prior.dim}"
    if not isinstance(model.likelihood, Bernoulli):
        return f"a Bernoulli likelihood, got {type(model.likelihood).__name__}"
    if type(model.decoder) not in (MLP, ResidualMLP):
        return f"an MLP or a ResidualMLP as decoder, got {type(model.decoder).__name__}"
    return ""


def answers(module: LatentVariableModule, data: pl.LightningDataModule) -> dict[str, Any]:
    """A model and some test images, for ``explorer.js`` where K = 2, and for ``axes.js``."""
    module.check_data(data)
    x = examples(data, "test", IMAGES)
    q, (height, width) = proposals(module, x), module.data.shape or (1, x.shape[-1])
    of_all = {
        "layers": layers(module.model.decoder),
        "extent": EXTENT,
        "height": height,
        "width": width,
        "count": len(x),
        "images": packed(np.packbits(x.numpy().astype(np.uint8))),
        "proposals": None if q is None else torch.cat([q.mean, q.log_sigma.exp()], -1).tolist(),
    }
    return of_all | (axes(module, q) if module.model.prior.dim > 2 else plane(module))


def plane(module: LatentVariableModule) -> dict[str, Any]:
    """What a model with K = 2 has besides: its decoded grid, and points of the prior."""
    axis = torch.linspace(-EXTENT, EXTENT, SIDE)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)  # z₁ changes slowest
    points = torch.randn(PRIOR_POINTS, 2, generator=generator_for(SEED, "figures", 0))
    logits = module.model.decode(grid.to(next(module.parameters()))).float().cpu()
    return {"side": SIDE, "table": table(logits), "points": encoded(points.numpy())}


def axes(module: LatentVariableModule, q: DiagonalGaussian | None) -> dict[str, Any]:
    """What a model with K > 2 has besides: K, and the mean KL of each axis in nats where there is an encoder."""
    return {"dim": module.model.prior.dim, "kl": None if q is None else q.kl_per_dimension().mean(0).tolist()}


def layers(decoder: nn.Module) -> list[dict[str, Any]]:
    """The linear layers of an MLP or a residual one, in order.

    Each has the name of the activation before it. Of a block, the first layer's input is kept, and added to what the
    last one gives.
    """
    found: list[dict[str, Any]] = []
    activation = ""
    for part in decoder.children():
        if isinstance(part, Block):
            before, first, between, last = part.layers
            found.append(layer(first, activation_name(before)) | {"keeps": True})
            found.append(layer(last, activation_name(between)) | {"adds": True})
        elif isinstance(part, nn.Linear):
            found.append(layer(part, activation))
            activation = ""
        else:
            activation = activation_name(part)
    return found


def layer(linear: nn.Module, activation: str) -> dict[str, Any]:
    """A linear layer: rows of weights in 16 bits under one scale each."""
    weight, bias = (cast(Tensor, values).float().cpu() for values in (linear.weight, linear.bias))
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / LEVELS
    return {
        "fan_in": weight.shape[1],
        "fan_out": weight.shape[0],
        "activation": activation,
        "weights": encoded((weight / scale).round().numpy().astype("<i2")),
        "scale": encoded(scale.numpy()),
        "bias": encoded(bias.numpy()),
    }


def activation_name(layer: nn.Module) -> str:
    """The activation that a layer of ours is or holds."""
    return type(getattr(layer, "activation", layer)).__name__.lstrip("_")


def table(logits: Tensor) -> dict[str, str]:
    """Logits ``(side², D)`` in a byte each, from the least to the largest of a pixel; and Σ_j softplus(l_j) exactly.

    Neighbours on the grid are alike: the differences of differences along both axes pack into a third of the bytes.
    """
    low, high = logits.amin(0), logits.amax(0)
    step = (high - low).clamp(min=1e-12) / 255
    levels = ((logits - low) / step).round().numpy().astype(np.uint8).reshape(SIDE, SIDE, -1)
    for axis in (0, 1):
        levels = np.diff(levels, axis=axis, prepend=np.zeros_like(levels.take([0], axis)))  # modulo 256
    partition = nn.functional.softplus(logits.double()).sum(-1).float()
    numbers = {"low": low, "step": step, "partition": partition}
    return {"levels": packed(levels)} | {name: encoded(values.numpy()) for name, values in numbers.items()}


def proposals(module: LatentVariableModule, x: Tensor) -> DiagonalGaussian | None:
    """q(z|x), or the Gaussian that stands for it in pictures; None without one."""
    q = module.propose(x.to(next(module.parameters())))
    if isinstance(q, LaplaceProposal):
        return q.diagonal()
    return q if isinstance(q, DiagonalGaussian) else None


def toy(module: ExponentialPosterior, data: pl.LightningDataModule) -> dict[str, Any]:
    """The observations and what is known of them, for ``toy.js``."""
    problem = module.problem(examples(data, "test", 1))
    best = closed_forms.best_rate(problem)
    known = {"log_p": closed_forms.log_marginal(problem), "best": best, "theta": float(module.theta)}
    return dict(problem._asdict()) | known


def encoded(values: npt.NDArray[Any]) -> str:
    """The bytes of an array in base64; processors of today are little-endian, and so are browsers."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def packed(values: npt.NDArray[Any]) -> str:
    """The same, in zlib's format: level 6 would take five times as long for 6 % less."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 4)).decode()
