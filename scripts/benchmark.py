"""Where the time goes, as ratios measured in one run: python scripts/benchmark.py --help.

Every comparison takes turns on the same device; a figure is the median over the turns, with the smallest and the
largest. Operations are counted as two for each weight and row in a forward pass and four in a backward pass, two where
the input needs no gradient, and as if no sample were left out; the rate that they are held against is that of a large
matrix product of the same type, measured in the same turn. Beside a step stand its products alone, as it has them: a
library reaches less with them than with a large one. Steps are measured on fresh and on trained weights: a trained
model's importance weights underflow, which costs some processors dearly where nothing is done against it, as
in the plain loop (``--flush_denormal`` takes that cost away). ``fit`` is the command itself, with a callback that takes
turns with a bare loop over the same module and data; ``test`` is the command in a process of its own.
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
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.command.cli import main as main_of_the_command
from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks import MLP
from lvm_lightning.support import UserError
from lvm_lightning.support.errors import PROGRAM
from lvm_lightning.support.processor import bfloat16_products, has_bfloat16

BATCH, SAMPLES = 256, 128
SHARED = (SAMPLES, 1024, 16_384)
AMORTISED_BATCH, AMORTISED_SAMPLES = 100, (1, 5, 50)
PLAIN = f"plain loop, N = {SAMPLES} own points"
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
State = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


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


def bare_step(model: LatentVariableModule, batches: Iterator[Batch], mixed: bool = False, rate: float = 0.0) -> Step:
    """Batch, loss, gradient and update, without a trainer; at a rate of 0 the weights stay what they are."""
    model.to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        batch = next(batches).to(DEVICE)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=mixed):
            output = model.training_step(batch, 0)
        assert isinstance(output, dict)
        output["loss"].backward()
        optimizer.step()

    return step


def plain_step(x: Tensor, state: State | None) -> Step:
    """What a first implementation does: N points for each example, and the log-probability of every logit."""
    decoder, x = prior_model(state).model.decoder.to(DEVICE), x.to(DEVICE)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        logits = decoder(torch.randn(len(x), SAMPLES, 2, device=DEVICE))
        log_p = Bernoulli(logits=logits, validate_args=False).log_prob(x.unsqueeze(1)).sum(-1)
        loss = -(log_p.logsumexp(1) - torch.tensor(float(SAMPLES)).log()).mean()
        loss.backward()
        optimizer.step()

    return step


def with_weights(model: Module, state: State | None) -> Module:
    """The model with these weights, or as it is."""
    if state is not None:
        model.load_state_dict(state)
    return model


def prior_model(state: State | None = None, samples: int = SAMPLES, **options: Any) -> PriorIWAE:
    """The default run's model."""
    decoder = partial(MLP, activation="SiLU")
    return with_weights(PriorIWAE(inner_samples=samples, decoder=decoder, **options), state)


def encoder_model(state: State | None = None, samples: int = 1) -> GaussianVAE:
    """784-200-200-50, tanh, with S samples inside the logarithm."""
    network = partial(MLP, hidden=(200, 200), activation="Tanh")
    model = GaussianVAE(latent_dim=50, inner_samples=samples, encoder=network, decoder=network)
    return with_weights(model, state)


def trained(model: LatentVariableModule, batches: Iterator[Batch], count: int) -> State:
    """The weights after so many steps."""
    step = bare_step(model, batches, rate=2e-3)
    for _ in range(count):
        step()
    return {name: value.cpu() for name, value in model.state_dict().items()}


def shared_operations(samples: int) -> int:
    """Floating-point operations of a step: the decoder once a point, and all pairs of points and images."""
    return samples * (6 * products(prior_model().model.decoder) + 4 * BATCH * 784)


def amortised_operations(samples: int) -> int:
    """The encoder once an image, the decoder once a sample."""
    model = encoder_model()
    return AMORTISED_BATCH * (6 * products(model.encoder) - 2 * 784 * 200 + samples * 6 * products(model.model.decoder))


def forever(data: StaticMNIST) -> Iterator[Batch]:
    """Batches without end."""
    while True:
        yield from data.train_dataloader()


def precisions() -> dict[str, bool]:
    """What the names of float32 and of bfloat16 steps end in; these only where the device has such products."""
    return {"": False, ", bf16": True} if has_bfloat16(DEVICE.type) else {"": False}


def prior_steps(batches: Iterator[Batch], state: State | None) -> tuple[Works, dict[str, int]]:
    """The default model's steps with the calls in a row that a turn takes, and the operations of each."""
    works: Works = {PLAIN: (plain_step(next(batches).x, state), 1)}
    operations = {}
    for end, mixed in precisions().items():
        model = prior_model(state, share_points=False, points="iid")
        works["own points" + end] = (bare_step(model, batches, mixed), 1)
        operations["own points" + end] = 6 * BATCH * SAMPLES * products(model.model.decoder)
        for n in SHARED:
            name = f"N = {n:,} shared points{end}"
            works[name] = (bare_step(prior_model(state, n), batches, mixed), max(1, 2560 // n))
            operations[name] = shared_operations(n)
    return works, operations


def encoder_steps(batches: Iterator[Batch], state: State | None) -> tuple[Works, dict[str, int]]:
    """The same for the model with an encoder."""
    one = next(batches)
    small = Batch(one.x[:AMORTISED_BATCH], one.label[:AMORTISED_BATCH], 0, AMORTISED_BATCH)
    works: Works = {}
    operations = {}
    for end, mixed in precisions().items():
        for s in AMORTISED_SAMPLES:
            name = amortised(s) + end
            works[name] = (bare_step(encoder_model(state, s), iter(lambda: small, None), mixed), max(1, 100 // s))
            operations[name] = amortised_operations(s)
    return works, operations


def products_of(network: nn.Module, rows: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Factors of the products of a network's layers, forwards and backwards, for so many rows: h Wᵀ, gᵀ h and g W."""
    factors: list[tuple[Tensor, Tensor]] = []
    for weight in (p.detach().to(DEVICE, dtype) for p in network.parameters() if p.ndim == 2):
        h, g = (torch.randn(rows, width, device=DEVICE).to(dtype) for width in reversed(weight.shape))
        factors += [(h, weight.mT), (g.mT, h), (g, weight)]
    return factors


def products_alone() -> Works:
    """The products of each step that no sample is left out of, and nothing else: what the library reaches there."""

    def work(factors: list[tuple[Tensor, Tensor]], mixed: bool) -> Step:
        def multiply() -> None:
            with bfloat16_products() if mixed and DEVICE.type == "cpu" else nullcontext():
                for a, b in factors:
                    a @ b

        return multiply

    works: Works = {}
    prior, encoder = prior_model().model.decoder, encoder_model()
    x = torch.randint(2, (BATCH, 784), device=DEVICE).float()
    for end, mixed in precisions().items():
        dtype = torch.bfloat16 if mixed else torch.float32
        for n in SHARED:
            pairs = [(torch.randn(n, 784, device=DEVICE), x.mT), (torch.rand(n, BATCH, device=DEVICE), x)]
            factors = products_of(prior, n, dtype) + pairs
            works[f"N = {n:,} shared points{end}, products alone"] = work(factors, mixed), max(1, 2560 // n)
        for s in AMORTISED_SAMPLES:
            factors = products_of(encoder.model.decoder, AMORTISED_BATCH * s, dtype)
            of_encoder = products_of(encoder.encoder, AMORTISED_BATCH, dtype)
            factors += of_encoder[:2] + of_encoder[3:]  # images need no gradient
            works[f"{amortised(s)}{end}, products alone"] = work(factors, mixed), max(1, 100 // s)
    return works


def amortised(samples: int) -> str:
    """Name of a step of the model with an encoder."""
    return f"784-200-200-50, S = {samples}, B = {AMORTISED_BATCH}"


def steps(batches: Iterator[Batch], states: dict[str, tuple[State, State] | None]) -> tuple[Works, dict[str, int]]:
    """Every step on every state of both models, side by side, so that their turns are close in time."""
    works: dict[str, Works] = {}
    operations: dict[str, int] = {}
    for which, state in states.items():
        of_prior, of_encoder = (None, None) if state is None else state
        for found, count in (prior_steps(batches, of_prior), encoder_steps(batches, of_encoder)):
            for name, work in found.items():
                works.setdefault(name, {})[f"{name}, {which}"] = work
            operations |= {f"{name}, {which}": number for name, number in count.items()}
    return {name: work for each in works.values() for name, work in each.items()}, operations


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
        self.step, self.started = bare_step(prior_model(), forever(data), rate=1e-3), 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Every so many steps, the bare loop's turn."""
        if trainer.global_step % IN_TURN == 0:
            if self.started:
                self.fit.append((time.perf_counter() - self.started) / IN_TURN)
                self.bare.append(clock(self.step, IN_TURN))
            self.started = time.perf_counter()


def run_fit(folder: Path, *arguments: object) -> None:
    """The command ``fit`` in this process, its output in a file.

    Raises:
        SystemExit: with its last line, if it fails.
    """
    words = ["fit", *arguments, "--trainer.logger.save_dir", folder]
    own, sys.argv = sys.argv, [PROGRAM, *map(str, words)]
    with (folder / "fit.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        status = main_of_the_command()
    sys.argv = own
    if status:
        raise SystemExit((folder / "fit.log").read_text().strip().splitlines()[-1])


def fit(folder: Path, count: int) -> Times:
    """Seconds of a step of ``fit``, progress bar, TensorBoard and checkpoints on, and of a bare loop."""
    limits = ["--trainer.max_steps", count, "--trainer.val_check_interval", count]
    run_fit(folder, *RUN, *limits, "--trainer.callbacks+=benchmark.BetweenSteps")
    timed = importlib.import_module("benchmark").BetweenSteps  # this file under the name that the command knows it by
    return {"a step of fit": timed.fit, "a step of a bare loop": timed.bare}


def line(name: str, seconds: list[float], remark: str = "") -> str:
    """One row of the table."""
    return f"{name:56} {spread([1e3 * s for s in seconds], '.2f')} ms  {remark}"


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """How many times as long, turn by turn."""
    return [s / f for s, f in zip(slow, fast, strict=True)]


def spread(values: list[float], form: str) -> str:
    """Median, smallest and largest."""
    low, middle, high = (format(f(values), form) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def machine() -> dict[str, Any]:
    """What a measurement depends on besides the code; ``kind`` names a file of measurements."""
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    bfloat16 = has_bfloat16(DEVICE.type)
    on = f"{capability}{' bf16' * bfloat16} {threads} thread{'s' * (threads > 1)}"
    if DEVICE.type == "cuda":
        on = torch.cuda.get_device_name()
    return {
        **{"kind": on.lower().replace(" ", "-"), "capability": capability, "has_bfloat16": bfloat16},
        **{"threads": threads, "machine": platform.processor() or platform.machine(), "torch": torch.__version__},
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def fail(message: str) -> NoReturn:
    """One line, and status 1."""
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def require(options: argparse.Namespace, **least: int) -> None:
    """Refuse numbers that are too small, by the options' names."""
    for name, number in least.items():
        if (value := getattr(options, name)) < number:
            fail(f"--{name}: must be a whole number, {number:,} or more, got {value:,}")


def default_weights(path: Path) -> State:
    """Those of a finished default run."""
    try:
        state: State = read_checkpoint(path)["state_dict"]
        prior_model(state)
    except UserError as error:
        fail(f"--ckpt_path: {error}")
    except RuntimeError:
        fail(f"--ckpt_path: must be a checkpoint of configs/prior_iwae.yaml, got {path}, which holds another model")
    return state


def train_and_test(count: int) -> Times:
    """Seconds of the commands: a step of ``fit`` and of a bare loop, and ``test`` with its start."""
    with tempfile.TemporaryDirectory() as folder:
        times = fit(Path(folder), count)
        (run,) = Path(folder).glob("prior_iwae/version_*")
        test = ("test", *RUN, "--ckpt_path", run / "checkpoints" / "last.ckpt")
        return times | {"lvm-lightning test, 10,000 images": [clock(lambda: command(*test), 1)]}


def ratios(times: Times) -> Times:
    """What is held against what, turn by turn."""
    found = {"fit / bare loop": ratio(times["a step of fit"], times["a step of a bare loop"])}
    for name in times:
        step, _, which = name.rpartition(", ")
        if which == "products alone":
            found[f"step / its products: {step}"] = ratio(times[f"{step}, fresh"], times[name])
        if which == "trained":
            found[f"trained / fresh: {step}"] = ratio(times[name], times[f"{step}, fresh"])
        if which in ("fresh", "trained") and step.startswith(("own points", f"N = {SAMPLES} shared")):
            found[f"plain / {name}"] = ratio(times[f"{PLAIN}, {which}"], times[name])
    return found


def of_rates(times: Times, operations: dict[str, int]) -> Times:
    """Each step's share of the rate of a product of its type, turn by turn."""
    found = {}
    for name, count in operations.items():
        fastest = times["bf16 product" if "bf16" in name else "float32 product"]
        found[name] = [count / PRODUCT * share for share in ratio(fastest, times[name])]
    return found


def show(about: dict[str, Any], times: Times, shares: Times, against: Times) -> None:
    """The table."""
    rates = [f"{n} {PRODUCT / statistics.median(times[n]) / 1e9:.0f} GFLOP/s" for n in times if n.endswith(" product")]
    print(", ".join([about["kind"], f"torch {about['torch']}", *rates]))
    if not about["has_bfloat16"]:
        print("bf16 steps are left out: this processor has no bfloat16 products, and they would take minutes")
    for name, seconds in times.items():
        share = shares.get(name)
        print(line(name, seconds, f"{spread(share, '.0%')} of the rate of a product" if share else ""))
    for name, found in against.items():
        print(f"{name:56} {spread(found, '.3f')}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="steps of fit, which take turns with a bare loop")
    parser.add_argument("--train_steps", type=int, default=400, help="steps that the trained weights have behind them")
    parser.add_argument("--ckpt_path", type=Path, help="checkpoint of configs/prior_iwae.yaml: trained weights")
    parser.add_argument("--flush_denormal", action="store_true", help="let the processor take denormal numbers for 0")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark.json"))
    options = parser.parse_args()
    require(options, turns=1, steps=2 * IN_TURN, train_steps=1)
    torch.set_flush_denormal(options.flush_denormal)  # threads that start later do the same
    torch.manual_seed(0)
    given = None if options.ckpt_path is None else default_weights(options.ckpt_path)
    data = StaticMNIST(batch_size=BATCH)
    data.setup()
    batches = forever(data)
    of_prior = given or trained(prior_model(samples=1024), batches, options.train_steps)
    of_encoder = trained(encoder_model(samples=5), batches, options.train_steps)
    works, operations = steps(batches, {"fresh": None, "trained": (of_prior, of_encoder)})
    rated: Works = {"float32 product": (product(torch.float32), 3)}
    if has_bfloat16(DEVICE.type):
        rated["bf16 product"] = (product(torch.bfloat16), 10)
    about = machine() | {
        "flush_denormal": options.flush_denormal,
        "train_steps": None if given else options.train_steps,
    }
    times = in_turns(rated | works | products_alone(), options.turns) | train_and_test(options.steps)
    shares, against = of_rates(times, operations), ratios(times)
    show(about, times, shares, against)
    write(options.output, about | {"seconds": times, "ratios": against, "fraction_of_product_rate": shares})
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
