"""Where the time goes, as ratios measured in one run: python scripts/benchmark.py --help.

Every comparison takes turns in one process on the same threads; a figure is the median over the turns, with the
smallest and the largest. Operations are counted as two for each weight and row in a forward pass and four in a backward
pass, two where the input needs no gradient; the rate that they are held against is that of a large float32 matrix
product, measured in the same run.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributions import Bernoulli

from lvm_lightning.callbacks import BoundProgressBar, RunCheckpoint, TrainingBound
from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP

BATCH, SAMPLES = 256, 128
Times = dict[str, list[float]]


def clock(work: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, from so many in a row."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def in_turns(works: dict[str, tuple[Callable[[], object], int]], turns: int) -> Times:
    """Seconds of each work in each turn, after one call that does not count."""
    for work, _ in works.values():
        work()
    times: Times = {name: [] for name in works}
    for _ in range(turns):
        for name, (work, repeats) in works.items():
            times[name].append(clock(work, repeats))
    return times


def product_rate(turns: int, size: int = 2048) -> float:
    """Floating-point operations a second of a float32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / statistics.median(clock(lambda: a @ b, 3) for _ in range(turns))


def weights(network: nn.Module) -> int:
    """Weights that a row is multiplied with."""
    return sum(p.numel() for p in network.parameters() if p.ndim == 2)


def bare_step(model: LatentVariableModule, batch: Batch) -> Callable[[], None]:
    """Loss, gradient and update, without a trainer."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        output = model.training_step(batch, 0)
        assert isinstance(output, dict)
        output["loss"].backward()
        optimizer.step()

    return step


def plain_step(x: Tensor) -> Callable[[], None]:
    """What a first implementation does: N points for each example, and the log-probability of every logit."""
    decoder = MLP(2, 784)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        logits = decoder(torch.randn(len(x), SAMPLES, 2))
        log_p = Bernoulli(logits=logits).log_prob(x.unsqueeze(1)).sum(-1)
        loss = -(log_p.logsumexp(1) - torch.tensor(float(SAMPLES)).log()).mean()
        loss.backward()
        optimizer.step()

    return step


def encoder_model(samples: int) -> GaussianVAE:
    """784-200-200-50, tanh, with S samples inside the logarithm."""

    def network(fan_in: int, fan_out: int) -> MLP:
        return MLP(fan_in, fan_out, hidden=(200, 200), activation="Tanh")

    return GaussianVAE(latent_dim=50, inner_samples=samples, encoder=network, decoder=network)


def fit_steps(steps: int, folder: Path) -> float:
    """Seconds a step of ``fit`` with progress bar, TensorBoard and checkpoints, from the second tenth on."""

    class Stopwatch(pl.Callback):
        marks: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, *_: Any) -> None:
            self.marks.append(time.perf_counter())

    watch = Stopwatch()
    trainer = pl.Trainer(
        max_steps=steps,
        logger=TensorBoardLogger(folder),
        callbacks=[BoundProgressBar(), TrainingBound(), RunCheckpoint(folder / "checkpoints"), watch],
        log_every_n_steps=25,
        limit_val_batches=0,
        enable_model_summary=False,
        accelerator="cpu",
    )
    optimizer = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True)  # noqa: E731
    trainer.fit(PriorIWAE(inner_samples=SAMPLES, optimizer=optimizer), StaticMNIST(batch_size=BATCH))
    first = steps // 10
    return (watch.marks[-1] - watch.marks[first]) / (len(watch.marks) - 1 - first)


def line(name: str, seconds: list[float], remark: str = "") -> str:
    """One row of the table."""
    low, middle, high = (1e3 * f(seconds) for f in (min, statistics.median, max))
    return f"{name:48} {middle:9.2f} ms  ({low:.2f} to {high:.2f})  {remark}"


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """How many times as long, turn by turn."""
    return [s / f for s, f in zip(slow, fast, strict=True)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="steps of fit")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = StaticMNIST(batch_size=BATCH)
    data.setup()
    batch: Batch = next(iter(data.train_dataloader()))
    turns = arguments.turns
    rate = product_rate(turns)

    shared = PriorIWAE(inner_samples=SAMPLES)
    wide = PriorIWAE(inner_samples=1024)
    own = PriorIWAE(inner_samples=SAMPLES, share_points=False, points="iid")
    times = in_turns(
        {
            "plain loop, own points, B = 256, N = 128": (plain_step(batch.x), 1),
            "own points": (bare_step(own, batch), 1),
            "shared points": (bare_step(shared, batch), 20),
            "shared points, N = 1,024": (bare_step(wide, batch), 5),
            **{
                f"784-200-200-50, S = {s}, B = 100": (
                    bare_step(encoder_model(s), Batch(batch.x[:100], batch.label[:100], 0, 100)),
                    n,
                )
                for s, n in [(1, 20), (5, 20), (50, 3)]
            },
        },
        turns,
    )
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit_steps(arguments.steps, Path(folder))
    plain, per_example, common = (times[name] for name in list(times)[:3])
    decoder = weights(shared.decoder)
    operations = {
        "own points": 6 * BATCH * SAMPLES * decoder,
        "shared points": SAMPLES * (6 * decoder + 4 * BATCH * 784),
        "shared points, N = 1,024": 1024 * (6 * decoder + 4 * BATCH * 784),
    }
    for s in (1, 5, 50):
        model = encoder_model(s)
        once, each = 6 * weights(model.encoder) - 2 * 784 * 200, 6 * weights(model.decoder)
        operations[f"784-200-200-50, S = {s}, B = 100"] = 100 * (once + s * each)
    fractions = {name: n / statistics.median(times[name]) / rate for name, n in operations.items()}
    threads = torch.get_num_threads()
    print(f"matrix products at {rate / 1e9:.0f} GFLOP/s, {threads} threads, torch {torch.__version__}\n")
    for name, seconds in times.items():
        remark = f"{fractions[name]:.0%} of the rate of a product" if name in fractions else ""
        print(line(name, seconds, remark))
    against = {"plain / shared": ratio(plain, common), "plain / own": ratio(plain, per_example)}
    for name, found in against.items():
        print(f"{name:48} {statistics.median(found):9.2f}     ({min(found):.2f} to {max(found):.2f})")
    overhead = fitted / statistics.median(common)
    print(f"{'fit / bare loop, shared points':48} {overhead:9.3f}     ({1e3 * fitted:.2f} ms a step of fit)")
    result = {
        **{"product_rate": rate, "threads": threads, "torch": torch.__version__},
        **{"machine": platform.processor() or platform.machine(), "seconds": times, "ratios": against},
        **{"fraction_of_product_rate": fractions, "fit_seconds": fitted, "fit_over_bare": overhead},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
