"""How long log p(x) with 5,000 importance samples takes: this package, and two loops over examples.

Both loops take one image at a time and encode it once for every sample. ``probabilities`` is the form that is met most
often: samples in portions of 500, pixel probabilities cut to [1e-5, 1 − 1e-5], x log p + (1 − x) log(1 − p).
``distributions`` is a careful one: all samples at once, torch.distributions on logits. All run in one process, on the
same threads, in turns, on the 784-200-200-50 network; the time of an image is the median over the turns. Prints a table
and writes JSON.
"""

import argparse
import json
import math
import platform
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.protocol import evenly_spaced
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.networks import MLP
from lvm_lightning.objectives.bounds import iw_elbo


def network(fan_in: int, fan_out: int) -> MLP:
    """Burda et al.'s hidden layers."""
    return MLP(fan_in, fan_out, hidden=(200, 200), activation="Tanh")


PORTION = 500


def probabilities(model: GaussianVAE, x: Tensor, samples: int) -> Tensor:
    """One image ``(D,)``, with pixel probabilities."""
    parts = []
    for _ in range(samples // PORTION):
        repeated = x.expand(PORTION, -1).contiguous()
        mean, log_sigma = model.encoder(repeated).chunk(2, -1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        p = model.model.decoder(z).sigmoid().clamp(1e-5, 1 - 1e-5)
        log_lik = (repeated * p.log() + (1 - repeated) * (1 - p).log()).sum(-1)
        log_prior = (-0.5 * (z**2 + math.log(2 * math.pi))).sum(-1)
        scaled = (z - mean) / log_sigma.exp()
        log_q = (-0.5 * (scaled**2 + math.log(2 * math.pi)) - log_sigma).sum(-1)
        parts.append(log_lik + log_prior - log_q)
    value: Tensor = torch.cat(parts).logsumexp(0) - math.log(samples)
    return value


def distributions(model: GaussianVAE, x: Tensor, samples: int) -> Tensor:
    """One image ``(D,)``, with logits and torch.distributions."""
    repeated = x.expand(samples, -1)
    mean, log_sigma = model.encoder(repeated).chunk(2, -1)
    q = Normal(mean, log_sigma.exp())
    z = q.sample()
    log_w = (
        Bernoulli(logits=model.model.decoder(z)).log_prob(repeated).sum(-1)
        + Normal(0.0, 1.0).log_prob(z).sum(-1)
        - q.log_prob(z).sum(-1)
    )
    value: Tensor = log_w.logsumexp(0) - math.log(samples)
    return value


def batched(model: GaussianVAE, x: Tensor, samples: int) -> Tensor:
    """This package's evaluation of a batch ``(B, D)``."""
    return iw_elbo(model.model.log_weights(x, model.propose(x), samples, torch.Generator().manual_seed(0)).double())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="images of one batch of this package's evaluation")
    parser.add_argument("--loop_images", type=int, default=20, help="images of one turn of each loop")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_evaluation.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = GaussianVAE(latent_dim=50, encoder=network, decoder=network).eval()
    data = StaticMNIST()
    data.setup()
    x = data.splits["test"].images.float()[evenly_spaced(10_000, arguments.images)]
    few = x[: arguments.loop_images]
    loops = {"probabilities": probabilities, "distributions": distributions}
    times: dict[str, list[float]] = {name: [] for name in [*loops, "package"]}
    with torch.inference_mode():
        looped = torch.stack([distributions(model, row, arguments.samples) for row in few]).double()
        agree = looped - batched(model, few, arguments.samples)
        for _ in range(arguments.turns):
            for name, loop in loops.items():
                started = time.perf_counter()
                for row in few:
                    loop(model, row, arguments.samples)
                times[name].append((time.perf_counter() - started) / len(few))
            started = time.perf_counter()
            batched(model, x, arguments.samples)
            times["package"].append((time.perf_counter() - started) / len(x))
    ratios = {name: [t / o for t, o in zip(times[name], times["package"], strict=True)] for name in loops}
    result = {
        "samples": arguments.samples,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "ms_per_image": {name: [1e3 * t for t in seconds] for name, seconds in times.items()},
        "ratio_to_package": ratios,
        "difference_nats": [float(agree.mean()), float(agree.std() / len(agree) ** 0.5)],
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, seconds in times.items():
        line = f"{name:14} {1e3 * statistics.median(seconds):7.2f} ms an image"
        line += f"   ({1e3 * min(seconds):.2f} to {1e3 * max(seconds):.2f})"
        if name in ratios:
            found = ratios[name]
            line += f"   {statistics.median(found):.2f} times the package ({min(found):.2f} to {max(found):.2f})"
        print(line)
    print(f"difference of the two estimates: {agree.mean():+.4f} ± {agree.std() / len(agree) ** 0.5:.4f} nats")
    print(f"peak memory {result['peak_memory_gb']:.2f} GB; {arguments.samples:,} samples, "
          f"{torch.get_num_threads()} threads; written to {arguments.output}")  # fmt: skip


if __name__ == "__main__":
    main()
