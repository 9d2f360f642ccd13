"""Where the time goes, as ratios measured in one run: python scripts/benchmark.py --help.

Every comparison takes turns on the same device; a figure is the median over the turns, with the smallest and the
largest. Operations are counted as two for each weight and row in a forward pass and four in a backward pass, two where
the input needs no gradient; the rate that they are held against is that of a large matrix product of the same type,
measured in the same turn. ``fit`` is the command itself, with a callback that takes turns with a bare loop over the
same module and data; ``test`` is the command in a process of its own.
"""

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from lvm_lightning.command.cli import main as main_of_the_command
from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP
from lvm_lightning.support.errors import PROGRAM

BATCH, SAMPLES = 256, 128
AMORTISED_BATCH, AMORTISED_SAMPLES = 100, (1, 5, 50)
IN_TURN = 20
"""Steps of fit, and of the bare loop, in a turn."""
SIDE = 2048
PRODUCT = 2 * SIDE**3
"""Operations of the product that the others are held against."""
RUN = ["--config", "configs/prior_iwae.yaml", "--model.lr_scheduler", "null", "--model.inner_samples", str(SAMPLES)]
RUN += ["--data.batch_size", str(BATCH)]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Step = Callable[[], None]
Works = dict[str, tuple[Step, int]]
Times = dict[str, list[float]]


def clock(work: Step, repeats: int) -> float:
    """Seconds of one call, from so many in a row."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def in_turns(works: Works, turns: int) -> Times:
    """Seconds of each work in each turn, after one call that does not count."""
    for work, _ in works.values():
        work()
    times: Times = {name: [] for name in works}
    for _ in range(turns):
        for name, (work, repeats) in works.items():
            times[name].append(clock(work, repeats))
    return times


def product(dtype: torch.dtype) -> Step:
    """A square matrix product."""
    a, b, out = (torch.randn(SIDE, SIDE, device=DEVICE).to(dtype) for _ in range(3))

    def work() -> None:
        torch.mm(a, b, out=out)

    return work


def products(model: nn.Module) -> int:
    """Weights that a row is multiplied with."""
    return sum(p.numel() for p in model.parameters() if p.ndim == 2)


def adam(parameters: Any) -> torch.optim.Optimizer:
    """The same for all."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def bare_step(model: LatentVariableModule, batches: Iterator[Batch], mixed: bool = False) -> Step:
    """Batch, loss, gradient and update, without a trainer."""
    model.to(DEVICE)
    optimizer = adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        batch = next(batches).to(DEVICE)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=mixed):
            output = model.training_step(batch, 0)
        assert isinstance(output, dict)
        output["loss"].backward()
        optimizer.step()

    return step


def plain_step(x: Tensor) -> Step:
    """What a first implementation does: N points for each example, and the log-probability of every logit."""
    decoder, x = MLP(2, 784).to(DEVICE), x.to(DEVICE)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        logits = decoder(torch.randn(len(x), SAMPLES, 2, device=DEVICE))
        log_p = Bernoulli(logits=logits, validate_args=False).log_prob(x.unsqueeze(1)).sum(-1)
        loss = -(log_p.logsumexp(1) - torch.tensor(float(SAMPLES)).log()).mean()
        loss.backward()
        optimizer.step()

    return step


def encoder_model(samples: int) -> GaussianVAE:
    """784-200-200-50, tanh, with S samples inside the logarithm."""

    def network(fan_in: int, fan_out: int) -> MLP:
        return MLP(fan_in, fan_out, hidden=(200, 200), activation="Tanh")

    return GaussianVAE(latent_dim=50, inner_samples=samples, encoder=network, decoder=network)


def shared_operations(samples: int) -> int:
    """Floating-point operations of a step: the decoder once a point, and all pairs of points and images."""
    return samples * (6 * products(PriorIWAE().model.decoder) + 4 * BATCH * 784)


def amortised_operations(samples: int) -> int:
    """The encoder once an image, the decoder once a sample."""
    model = encoder_model(samples)
    return AMORTISED_BATCH * (6 * products(model.encoder) - 2 * 784 * 200 + samples * 6 * products(model.model.decoder))


def forever(data: StaticMNIST) -> Iterator[Batch]:
    """Batches without end."""
    while True:
        yield from data.train_dataloader()


def steps(data: StaticMNIST) -> tuple[Works, dict[str, int]]:
    """Every training step with the calls in a row that a turn takes, and the operations of each."""
    batches = forever(data)
    one = next(batches)
    small = Batch(one.x[:AMORTISED_BATCH], one.label[:AMORTISED_BATCH], 0, AMORTISED_BATCH)

    def own(mixed: bool) -> Step:
        model = PriorIWAE(inner_samples=SAMPLES, share_points=False, points="iid")
        return bare_step(model, batches, mixed)

    works: Works = {
        f"plain loop, N = {SAMPLES} own points": (plain_step(one.x), 1),
        "own points": (own(mixed=False), 1),
        "own points, bf16": (own(mixed=True), 1),
    }
    per_example = 6 * BATCH * SAMPLES * products(PriorIWAE().model.decoder)
    operations = dict.fromkeys(list(works)[1:], per_example)
    for n in (SAMPLES, 1024, 16_384):
        for mixed in (False, True):
            name = f"N = {n:,} shared points" + ", bf16" * mixed
            works[name] = (bare_step(PriorIWAE(inner_samples=n), batches, mixed), max(1, 2560 // n))
            operations[name] = shared_operations(n)
    for s in AMORTISED_SAMPLES:
        for mixed in (False, True):
            name = f"784-200-200-50, S = {s}, B = {AMORTISED_BATCH}" + ", bf16" * mixed
            works[name] = (bare_step(encoder_model(s), iter(lambda: small, None), mixed), max(1, 100 // s))
            operations[name] = amortised_operations(s)
    return works, operations


def command(*arguments: object) -> None:
    """Run lvm-lightning, and fail as it fails."""
    line = [sys.executable, "-m", "lvm_lightning", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} exits with {done.returncode}:\n{done.stderr}")


class BetweenSteps(pl.Callback):
    """Takes turns inside a running ``fit``: so many of its steps, then so many of a bare loop."""

    fit: ClassVar[list[float]] = []
    bare: ClassVar[list[float]] = []

    def __init__(self) -> None:
        data = StaticMNIST(batch_size=BATCH)
        data.setup()
        self.step, self.started = bare_step(PriorIWAE(inner_samples=SAMPLES), forever(data)), 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Every so many steps, the bare loop's turn."""
        if trainer.global_step % IN_TURN == 0:
            if self.started:
                self.fit.append((time.perf_counter() - self.started) / IN_TURN)
                self.bare.append(clock(self.step, IN_TURN))
            self.started = time.perf_counter()


def fit(folder: Path, count: int) -> Times:
    """Seconds of a step of ``fit``, progress bar, TensorBoard and checkpoints on, and of a bare loop."""
    arguments = [
        *("fit", *RUN, "--trainer.max_steps", count, "--trainer.val_check_interval", count),
        *("--trainer.logger.save_dir", folder, "--trainer.callbacks+=benchmark.BetweenSteps"),
    ]
    own, sys.argv = sys.argv, [PROGRAM, *map(str, arguments)]
    with (folder / "fit.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        status = main_of_the_command()
    if status:
        raise SystemExit((folder / "fit.log").read_text())
    sys.argv = own
    timed = importlib.import_module("benchmark").BetweenSteps  # this file under the name that the command knows it by
    return {"a step of fit": timed.fit, "a step of a bare loop": timed.bare}


def line(name: str, seconds: list[float], remark: str = "") -> str:
    """One row of the table."""
    low, middle, high = (1e3 * f(seconds) for f in (min, statistics.median, max))
    return f"{name:48} {middle:10.2f} ms  ({low:.2f} to {high:.2f})  {remark}"


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """How many times as long, turn by turn."""
    return [s / f for s, f in zip(slow, fast, strict=True)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="steps of fit, which take turns with a bare loop")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = StaticMNIST(batch_size=BATCH)
    data.setup()
    turns = arguments.turns
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(Path(folder), arguments.steps)
        (run,) = Path(folder).glob("prior_iwae/version_*")
        test = ("test", *RUN, "--ckpt_path", run / "checkpoints" / "last.ckpt")
        tested = clock(lambda: command(*test), 1)
    works, operations = steps(data)
    rated: Works = {"float32 product": (product(torch.float32), 3), "bf16 product": (product(torch.bfloat16), 10)}
    times = in_turns(rated | works, turns)
    rates = {name: PRODUCT / statistics.median(times[name]) for name in rated}
    shared = f"N = {SAMPLES} shared points"
    times |= {"lvm-lightning test, 10,000 images": [tested]} | fitted

    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{threads} threads"
    print(f"{device}, torch {torch.__version__}; " + ", ".join(f"{n} {r / 1e9:.0f} GFLOP/s" for n, r in rates.items()))
    fractions = {}
    for name, seconds in times.items():
        remark = ""
        if name in operations:
            limit = times["bf16 product" if name.endswith("bf16") else "float32 product"]
            share = operations[name] / PRODUCT
            fractions[name] = [share * fastest / taken for fastest, taken in zip(limit, seconds, strict=True)]
            low, middle, high = (f(fractions[name]) for f in (min, statistics.median, max))
            remark = f"{middle:.0%} of the rate of a product ({low:.0%} to {high:.0%})"
        print(line(name, seconds, remark))
    plain = times[next(iter(works))]
    against = {
        "plain / shared": ratio(plain, times[shared]),
        "plain / own": ratio(plain, times["own points"]),
        "plain / own, bf16": ratio(plain, times["own points, bf16"]),
        "fit / bare loop": ratio(*fitted.values()),
    }
    for name, found in against.items():
        print(f"{name:48} {statistics.median(found):10.3f}     ({min(found):.3f} to {max(found):.3f})")
    result = {
        **{"device": device, "machine": platform.processor() or platform.machine(), "threads": threads},
        **{"torch": torch.__version__, "product_rates": rates, "seconds": times, "ratios": against},
        **{"fraction_of_product_rate": fractions},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
