"""What a GPU makes of a training step: python scripts/benchmark_gpu.py --help.

Steps of the default model and of one with an encoder, on fresh and on trained weights, in float32, with TF32 products
and in bfloat16, take turns on one GPU. Each is run as it is, with compiled networks, and with compiled networks whose
kernels are replayed from CUDA graphs (``reduce-overhead``). Then the product of logits with images, which are 0 or 1,
is held against float64 in float32, in TF32 and as the sum of bfloat16 terms; and the command's training in two
processes on this GPU against the same training in one. Continuous integration has no GPU and leaves this out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmark import (
    AMORTISED_BATCH,
    AMORTISED_SAMPLES,
    BATCH,
    DEVICE,
    RUN,
    SHARED,
    State,
    Step,
    Works,
    bare_step,
    encoder_model,
    fail,
    forever,
    in_turns,
    line,
    machine,
    prior_model,
    product,
    ratio,
    require,
    spread,
    trained,
    write,
)
from torch import Tensor

from lvm_lightning.callbacks import CompiledNetworks
from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.data import StaticMNIST
from lvm_lightning.data.loader import Batch
from lvm_lightning.modules.base import LatentVariableModule

PRECISIONS = ("float32", "TF32", "bf16")
COMPILED = {"": None, ", compiled": "default", ", CUDA graphs": "reduce-overhead"}
"""What the names of steps end in, and torch's mode of compiling."""


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Context in which float32 products are rounded to TF32, or are not."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def step_in(model: LatentVariableModule, batches: Iterator[Batch], precision: str, mode: str | None) -> Step:
    """A step of the model in a precision, with its networks compiled where a mode is given."""
    if mode is not None:
        CompiledNetworks(mode=mode).on_fit_start(None, model)  # type: ignore[arg-type]  # which needs no trainer
    step = bare_step(model, batches, mixed=precision == "bf16")

    def work() -> None:
        with tf32(precision == "TF32"):
            torch.compiler.cudagraph_mark_step_begin()
            step()

    return work


def steps(batches: Iterator[Batch], states: dict[str, tuple[State, State] | None], repeats: int) -> Works:
    """Every step; so many of it make a turn."""
    one = next(batches)
    small = Batch(one.x[:AMORTISED_BATCH], one.label[:AMORTISED_BATCH], 0, AMORTISED_BATCH)
    works: Works = {}
    for which, state in states.items():
        of_prior, of_encoder = (None, None) if state is None else state
        for precision in PRECISIONS:
            for end, mode in COMPILED.items():
                if mode is not None and (which == "fresh" or precision == "TF32"):
                    continue  # compiling takes minutes, and neither makes other kernels
                for n in SHARED:
                    name = f"N = {n:,} shared points, {precision}{end}, {which}"
                    works[name] = (step_in(prior_model(of_prior, n), batches, precision, mode), repeats)
                for s in AMORTISED_SAMPLES if mode is None else AMORTISED_SAMPLES[::2]:
                    name = f"784-200-200-50, S = {s}, {precision}{end}, {which}"
                    given = iter(lambda: small, None)
                    works[name] = (step_in(encoder_model(of_encoder, s), given, precision, mode), repeats)
    return works


def split(tensor: Tensor, terms: int) -> list[Tensor]:
    """So many bfloat16 terms whose sum is the tensor, to 8 bits a term."""
    found = []
    for _ in range(terms):
        found.append(tensor.bfloat16())
        tensor = tensor - found[-1]
    return found


def products_with_images(logits: Tensor, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Σ_j x_j l_j of all pairs, in several ways."""

    def in_terms(terms: int) -> Tensor:
        images = x.bfloat16().mT
        return sum((torch.mm(t, images, out_dtype=torch.float32) for t in split(logits, terms)), torch.zeros(()).to(x))

    def in_float32(rounded: bool) -> Tensor:
        with tf32(rounded):
            return logits @ x.mT

    return {
        "float32": lambda: in_float32(False),
        "TF32": lambda: in_float32(True),
        **{f"{terms} terms of bf16": lambda terms=terms: in_terms(terms) for terms in (1, 2, 3)},  # type: ignore[misc]
    }


def compare_products(logits: Tensor, x: Tensor, turns: int) -> dict[str, Any]:
    """Largest error in nats against float64, and seconds, of each way."""
    exact = logits.double() @ x.double().mT
    ways = products_with_images(logits, x)
    errors = {name: (way() - exact).abs().max().item() for name, way in ways.items()}
    works = {name: (discard(way), 50) for name, way in ways.items()}
    return {"largest_error_in_nats": errors, "seconds": in_turns(works, turns)}


def discard(way: Callable[[], Tensor]) -> Step:
    """The same without its result."""

    def work() -> None:
        way()

    return work


def run_in(processes: int, folder: Path, count: int) -> State:
    """The weights of a short training by the command, in so many processes that all use this GPU."""
    options = ["--trainer.max_steps", str(count), "--trainer.limit_val_batches", "0", "--trainer.devices", "1"]
    options += ["--trainer.logger.save_dir", str(folder), "--trainer.num_nodes", str(processes)]
    options += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.001"]  # Adam would enlarge rounding
    if processes > 1:
        plugin = "{class_path: lightning.pytorch.strategies.DDPStrategy, init_args: {process_group_backend: gloo}}"
        options += ["--trainer.strategy", plugin]
    words = [sys.executable, "-m", "lvm_lightning", "fit", *RUN, *options]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "LOCAL_RANK": "0", "WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            words,
            env=os.environ | (meeting | {"NODE_RANK": str(rank)} if processes > 1 else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in running:
        _, told = process.communicate()
        if process.returncode:
            fail(f"{' '.join(words)} exits with {process.returncode}: {told.strip().splitlines()[-1:]}")
    (checkpoint,) = folder.glob("prior_iwae/version_*/checkpoints/last.ckpt")
    state: State = read_checkpoint(checkpoint)["state_dict"]
    return state


def two_processes(count: int) -> float:
    """Largest difference between a weight after a training in two processes and in one, of the largest weight."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        alone, shared = run_in(1, Path(one), count), run_in(2, Path(two), count)
    return max(
        float((alone[name] - shared[name]).abs().max() / alone[name].abs().max().clamp(min=1e-3)) for name in alone
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10, help="steps of a turn")
    parser.add_argument("--train_steps", type=int, default=1000, help="steps that the trained weights have behind them")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_gpu.json"))
    options = parser.parse_args()
    require(options, turns=1, repeats=1, train_steps=1)
    if DEVICE.type != "cuda":
        fail("it needs a GPU, got none; on a processor use scripts/benchmark.py")
    torch._dynamo.config.cache_size_limit = 64  # every model here is compiled
    torch.manual_seed(0)
    data = StaticMNIST(batch_size=BATCH)
    data.setup()
    batches = forever(data)
    of_prior = trained(prior_model(samples=1024), batches, options.train_steps)
    of_encoder = trained(encoder_model(samples=5), batches, options.train_steps)
    works: Works = {"float32 product": (product(torch.float32), 20), "bf16 product": (product(torch.bfloat16), 20)}
    times = in_turns(
        works | steps(batches, {"fresh": None, "trained": (of_prior, of_encoder)}, options.repeats), options.turns
    )
    model = prior_model(of_prior).to(DEVICE)
    with torch.no_grad():
        logits = model.model.decode(torch.randn(16_384, 2, device=DEVICE))
    found = compare_products(logits, next(batches).to(DEVICE).x, options.turns)
    for name, seconds in times.items():
        print(line(name, seconds))
    for name, error in found["largest_error_in_nats"].items():
        about = f"at most {error:.1e} nats from float64"
        print(line(f"logits of 16,384 points times {BATCH} images, {name}", found["seconds"][name], about))
    apart = two_processes(20)
    print(f"20 steps in two processes and in one: weights differ by at most {apart:.1e} of the largest")
    against = {
        step: ratio(times[f"{step}, trained"], times[f"{step}, fresh"])
        for step, _, which in (name.rpartition(", ") for name in times)
        if which == "fresh"
    }
    for step, found_ratios in against.items():
        print(f"{'trained / fresh: ' + step:56} {spread(found_ratios, '.2f')}")
    write(
        options.output,
        machine() | {"seconds": times, "trained / fresh": against, "products": found, "two_processes": apart},
    )
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
