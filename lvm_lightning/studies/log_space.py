"""Why log space: a probability of an image that underflows, and its logarithm that does not."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lvm_lightning.densities import Bernoulli
from lvm_lightning.figures.pictures import log_space_figure, render, save_png
from lvm_lightning.networks import MLP
from lvm_lightning.objectives.bounds import iw_elbo
from lvm_lightning.studies.free import FreeStudy
from lvm_lightning.support import NonNegativeInt, PositiveInt, generator_for

LATENT, PIXELS, SIDE = 2, 784, 28


class Estimates(NamedTuple):
    """Two estimates of p(x) from the same S draws, over the number d = 1 … D of pixels that are counted.

    Attributes:
        naive: 1/S Σ_s Π_j p(x_j|z_s) in float32, ``(D,)``.
        log_space: logsumexp_s Σ_j log p(x_j|z_s) − log S in float32, ``(D,)``, nats.
    """

    naive: Tensor
    log_space: Tensor


def estimates(logits: Tensor, x: Tensor) -> Estimates:
    """Both estimates for one image: logits ``(S, D)`` of S draws from the prior, x ``(D,)``."""
    log_pixel = -torch.nn.functional.softplus((1 - 2 * x) * logits)  # log p(x_j|z_s)
    naive = log_pixel.exp().cumprod(-1).mean(0)
    return Estimates(naive, iw_elbo(log_pixel.cumsum(-1)))


class LogSpace(FreeStudy):
    """See an estimate of p(x) underflow, and its log-space twin beside it.

    Draws 10 images from an untrained 2-128-128-784 decoder, and estimates the probability of the first both ways.
    Writes ``log_space.png``.

    Args:
        output: folder of the figure.
        samples: number S of draws from the prior.
        seed: seed of the weights and of the draws.
    """

    def __init__(
        self, output: Path = Path("runs/why_log_space"), samples: PositiveInt = 128, seed: NonNegativeInt = 0
    ) -> None:
        self.output, self.samples, self.seed = Path(output), samples, seed

    def run(self) -> str:
        """Draw, estimate, and tell what was found."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            decoder, likelihood = MLP(LATENT, PIXELS, hidden=(128, 128), activation="ELU"), Bernoulli()
        generator = generator_for(self.seed, "figures", 0)
        with torch.no_grad():
            images = likelihood.sample(decoder(torch.randn(10, LATENT, generator=generator)), generator)
            found = estimates(decoder(torch.randn(self.samples, LATENT, generator=generator)), images[0])
        path = self.output / "log_space.png"
        figure = log_space_figure(images.view(-1, SIDE, SIDE), found.naive.log().numpy(), found.log_space.numpy())
        save_png(render(figure), path)
        return f"{_account(found, self.samples)}\nwritten to {path}"


def _account(found: Estimates, samples: int) -> str:
    zero = found.naive == 0
    first_zero = int(zero.int().argmax()) + 1 if bool(zero.any()) else None
    power, logarithm = torch.tensor(0.8).pow(PIXELS), PIXELS * torch.tensor(0.8).log()
    return (
        f"0.8^{PIXELS} in float32: {float(power):g}; {PIXELS} log 0.8 = {float(logarithm):.2f} nats\n"
        f"p(x) of one image, {samples} draws from the prior, float32:\n"
        f"  1/S Σ_s p(x|z_s)                       {float(found.naive[-1]):g}"
        f"{f'   (0 from {first_zero} pixels on)' if first_zero else ''}\n"
        f"  logsumexp_s log p(x|z_s) − log S       {float(found.log_space[-1]):.2f} nats"
    )
