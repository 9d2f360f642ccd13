"""How long log p(x) with 5,000 importance samples takes: this package, and a plain loop over examples.

The plain evaluator does for each image what a first implementation does: encode it once for every sample, decode, sum
torch.distributions' log-probabilities, and take logsumexp. Both run in one process, on the same threads, in turns, on the
784-200-200-50 network; the time of an image is the median over the turns. Prints a table and writes JSON.
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

from lvm_lightning.bounds import iw_elbo
from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.evaluation.tightness import evenly_spaced
from lvm_lightning.modules import GaussianVAE
from lvm_lightning.networks import MLP


def network(fan_in: int, fan_out: int) -> MLP:
    """Burda et al.'s hidden layers."""
    return MLP(fan_in, fan_out, hidden=(200, 200), activation="Tanh")


def plain(model: GaussianVAE, x: Tensor, samples: int) -> Tensor:
    """One image ``(D,)`` at a time."""
    repeated = x.expand(samples, -1)
    mean, log_sigma = model.encoder(repeated).chunk(2, -1)
    q = Normal(mean, log_sigma.exp())
    z = q.sample()
    log_w = (
        Bernoulli(logits=model.decoder(z)).log_prob(repeated).sum(-1)
        + Normal(0.0, 1.0).log_prob(z).sum(-1)
        - q.log_prob(z).sum(-1)
    )
    return log_w.logsumexp(0) - math.log(samples)


def batched(model: GaussianVAE, x: Tensor, samples: int) -> Tensor:
    """This package's evaluation of a batch ``(B, D)``."""
    batch = Batch(x, torch.zeros(len(x), dtype=torch.uint8), 0, len(x))
    return iw_elbo(model.draw_log_weights(batch, samples, torch.Generator().manual_seed(0)).double())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="images of one batch of this package's evaluation")
    parser.add_argument("--plain_images", type=int, default=20, help="images of one turn of the plain loop")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_evaluation.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = GaussianVAE(latent_dim=50, encoder=network, decoder=network).eval()
    data = StaticMNIST()
    data.setup()
    x = data.splits["test"].images.float()[evenly_spaced(10_000, arguments.images)]
    times: dict[str, list[float]] = {"plain": [], "package": []}
    with torch.inference_mode():
        few = x[: arguments.plain_images]
        agree = torch.stack([plain(model, row, arguments.samples) for row in few]).double() - batched(
            model, few, arguments.samples
        )
        for _ in range(arguments.turns):
            started = time.perf_counter()
            for row in few:
                plain(model, row, arguments.samples)
            middle = time.perf_counter()
            batched(model, x, arguments.samples)
            ended = time.perf_counter()
            times["plain"].append((middle - started) / len(few))
            times["package"].append((ended - middle) / len(x))
    ratios = [p / o for p, o in zip(times["plain"], times["package"], strict=True)]
    result = {
        "samples": arguments.samples,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "plain_ms_per_image": [1e3 * t for t in times["plain"]],
        "package_ms_per_image": [1e3 * t for t in times["package"]],
        "ratio": ratios,
        "difference_nats": [float(agree.mean()), float(agree.std() / len(agree) ** 0.5)],
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, seconds in times.items():
        low, high = 1e3 * min(seconds), 1e3 * max(seconds)
        print(f"{name:8} {1e3 * statistics.median(seconds):8.2f} ms an image   ({low:.2f} to {high:.2f})")
    print(f"ratio    {statistics.median(ratios):8.2f}               ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"difference of the two estimates: {agree.mean():+.4f} ± {agree.std() / len(agree) ** 0.5:.4f} nats")
    print(f"peak memory {result['peak_memory_gb']:.2f} GB; {arguments.samples:,} samples, "
          f"{torch.get_num_threads()} threads; written to {arguments.output}")  # fmt: skip


if __name__ == "__main__":
    main()
