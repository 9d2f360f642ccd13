"""The benchmarks measure what they say, and refuse what they cannot measure. How long things take is no test."""

import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import benchmark
import benchmark_configs
import benchmark_gpu
import pytest
import torch
from counters import Operations
from torch.profiler import ProfilerActivity, profile

from lvm_lightning.modules import GaussianVAE, PriorIWAE
from lvm_lightning.networks import MLP
from tests.conftest import ROOT
from tests.small import D, batch_of, images


def told(script: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The line that it ends with."""
    monkeypatch.setattr("sys.argv", [f"scripts/{script.__name__}.py", *arguments])
    with pytest.raises(SystemExit) as left:
        script.main()
    return str(left.value.code)


def test_it_lists_every_config(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark_configs.py", "--list"])
    benchmark_configs.main()
    assert capsys.readouterr().out.split() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        (benchmark_configs, ["burda"], r"config: must be one of burda_iwae, .*, got burda"),
        (benchmark_configs, ["jensen", "--turns", "0"], r"--turns: must be a whole number, 1 or more, got 0"),
        (benchmark_configs, ["--train_seconds", "-1"], r"--train_seconds: must be a whole number, 1 or more, got -1"),
        (benchmark, ["--steps", "39"], r"--steps: must be a whole number, 40 or more, got 39"),
        (benchmark_gpu, ["--turns", "0"], r"--turns: must be a whole number, 1 or more, got 0"),
        (benchmark, ["--ckpt_path", "missing.ckpt"], r"--ckpt_path: .*missing.ckpt"),
    ],
)
def test_a_mistake_is_one_line(
    script: ModuleType, arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = told(script, arguments, monkeypatch)
    assert re.fullmatch(f"{script.__name__}.py: {line}.*", said), said


SMALL = """
model:
  class_path: lvm_lightning.modules.PriorIWAE
  init_args:
    data_dim: 12
    inner_samples: 100
    share_points: false
    decoder: {class_path: lvm_lightning.networks.MLP, init_args: {hidden: [8]}}
data: {class_path: tests.small.SmallImages, init_args: {batch_size: 50}}
trainer:
  log_every_n_steps: 5
  logger: {class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: runs, name: small}}
"""


def test_a_config_is_trained_and_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.setattr(benchmark_configs, "CONFIGS", {"small": tmp_path / "small.yaml"})
    monkeypatch.setattr(benchmark_configs, "LONG_ENOUGH", 0.01)
    monkeypatch.setattr(benchmark, "SIDE", 64)
    output = tmp_path / "new" / "found.json"
    arguments = ["--train_seconds", "1", "--turns", "2", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["benchmark_configs.py", *arguments])
    benchmark_configs.main()
    written = json.loads(output.read_text())
    found = written["configs"]["small"]
    assert found["steps"] > 1
    assert found["denormals"] == {}
    assert found["numbers"] > 10**5
    assert {name: 0 < share <= 1 for name, share in found["kept"].items()} == {"fresh": True, "trained": True}
    turns = {name: len(seconds) for name, seconds in found["seconds"].items()}
    assert turns == dict.fromkeys(["fresh", "trained", "product", "optimizer"], 2)
    assert all(share > 0 for share in found["trained / fresh"])
    assert written["kind"].endswith(f"-{torch.get_num_threads()}-thread" + "s" * (torch.get_num_threads() > 1))


def test_operations_have_their_kind() -> None:
    model = PriorIWAE(decoder=MLP, data_dim=D, inner_samples=4)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model.training_step(batch_of(images()), 0)["loss"].backward()
    kinds = {event.name: benchmark_configs.kind_of(event) for event in profiler.events() or []}
    assert kinds["aten::addmm"] == kinds["aten::mm"] == "products"
    assert kinds["aten::log1p_"] == kinds["aten::sigmoid"] == "likelihood"
    assert kinds["_LogSumExp"] == kinds["aten::exp_"] == "log-sum-exp"
    assert kinds["aten::elu_"] == "rest"
    convolution = SimpleNamespace(name="aten::mkldnn_convolution", cpu_parent=None)
    assert benchmark_configs.kind_of(convolution) == "products"


def test_the_products_alone_are_all_of_a_steps_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHARED", (128,))
    works = benchmark.products_alone()
    counts = {"N = 128 shared points": benchmark.shared_operations(128)}
    counts |= {benchmark.amortised(s): benchmark.amortised_operations(s) for s in benchmark.AMORTISED_SAMPLES}
    ends = benchmark.precisions()
    assert works.keys() == {f"{name}{end}, products alone" for name in counts for end in ends}
    for name, expected in counts.items():
        for end in ends:
            with Operations() as counted:
                works[f"{name}{end}, products alone"][0]()
            assert counted.total == expected


def test_operations_are_counted_where_samples_are_left_out() -> None:
    layer = torch.nn.Linear(3, 5)
    with Operations() as counted:
        layer(torch.randn(7, 3)).sum().backward()
    assert counted.total == 2 * 7 * 3 * 5 * 2
    model = GaussianVAE(latent_dim=3, data_dim=D, inner_samples=1000)
    x = batch_of(images())

    def step() -> None:
        model.training_step(x, 0)["loss"].backward()

    share = benchmark_configs.kept(model, step)
    assert share is not None
    assert 0 < share <= 1
    model.N = model.samples = 1
    with Operations() as counted:
        step()
    assert counted.total > 0


def test_every_file_of_measurements_has_the_name_of_its_kind() -> None:
    for path in (ROOT / "docs" / "benchmark").iterdir():
        written = json.loads(path.read_text())
        threads = f"{written['threads']}-thread" + "s" * (written["threads"] > 1)
        assert threads in path.stem
        assert written.get("kind", path.stem) in path.stem
