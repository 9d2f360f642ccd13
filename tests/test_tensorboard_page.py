"""What a reader sees who opens TensorBoard on runs, in a browser; and what the other loggers are given."""

import csv
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger

from lvm_lightning.callbacks import Pictures, TrainingBound
from lvm_lightning.modules import PriorIWAE
from lvm_lightning.networks import MLP
from tests.command import SMALL_FIT, STEPS, command
from tests.small import D, SmallImages, small_trainer

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--no-first-run")
READ = """return ["metrics-card-group-toolbar", "card-view"].map(name =>
    [...document.querySelectorAll(name)].map(e => [e.getBoundingClientRect().top, e.innerText]))"""
DEEP = """const read = node => node.nodeType == 3 ? [node.textContent.trim()]
    : ["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName) ? []
    : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].flatMap(read);
return read(document.body).filter(text => text).join("\\n")"""
TABLE = re.compile(r"Trial ID\n(.*?)\nColor by", re.DOTALL)
HEIGHT = 1000


class Page(NamedTuple):
    """What TensorBoard's first page shows.

    Attributes:
        groups: titles of the groups of charts from the top.
        cards: texts of what is open and can be seen without scrolling.
        hparams: text of the table of runs on the page HPARAMS, a cell a line.
    """

    groups: list[str]
    cards: list[str]
    hparams: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs, one of them tested."""
    folder = tmp_path_factory.mktemp("page")
    for options in (["--test_after_fit", "true"], ["--model.inner_samples", 2, "--model.optimizer.lr", 0.004]):
        finished = command(folder, *SMALL_FIT, "--trainer.val_check_interval", 15, *options)
        assert finished.status == 0, finished.err
    return folder / "runs"


@pytest.fixture(scope="module")
def board(runs: Path) -> Iterator[str]:
    """The address of a TensorBoard on them."""
    serve = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen([*serve, "--load_fast", "false"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = (re.search(r"at (http://127.0.0.1:\d+)", line) for line in process.stderr)
            yield next(match[1] for match in found if match)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def page(board: str) -> Page:
    """Its pages, as a browser shows them."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if BROWSER is None or DRIVER is None:
        pytest.skip("chromium or chromedriver is not here")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, *OFFLINE, f"--window-size=1400,{HEIGHT}"):
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        browser.get(board)
        groups, cards = until(browser, READ, lambda found: "bound_validation" in str(found[1]))
        browser.get(f"{board}/#hparams")
        hparams = until(browser, DEEP, lambda text: any("version_1" in table for table in TABLE.findall(text)))
    finally:
        browser.quit()
    seen = [text for top, text in cards if top < HEIGHT]
    return Page([re.sub(r"\s*\d+ cards", "", text) for _, text in groups], seen, TABLE.findall(hparams)[0])


def until(browser: Any, script: str, there: Any) -> Any:
    """What a script finds on a page, once it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = browser.execute_script(script)
        if there(found):
            return found
        time.sleep(0.3)
    raise TimeoutError(found)


def test_the_page_opens_on_the_bound_of_training_and_validation_on_one_chart(page: Page) -> None:
    first, second = page.cards[:2]
    assert first.startswith("bound")
    assert second.replace("\n", "").startswith("figures/")
    for number in (0, 1):
        for split in ("train", "validation"):
            assert first.count(f"prior_iwae/version_{number}/bound_{split}") == 1
    assert first.count(f"\n{STEPS}\n") >= 4  # all four curves end after the last step


def test_no_title_stands_twice_and_single_points_come_late(page: Page) -> None:
    assert page.groups == ["bound", "figures", "lr-Adam", "test", "train", "val"]


def test_the_table_of_runs_has_choices_and_what_came_of_them(page: Page) -> None:
    rows = [line.split("\n") for line in re.split(r"\n(?=prior_iwae/)", page.hparams)]
    chosen = ["J (outer_samples)", "K (latent_dim)", "N (inner_samples)", "learning rate", "optimiser"]
    assert rows[0] == ["Show Metrics", *chosen, "validation bound", "training bound", "test log p(x)", "test bound"]
    assert [row[:6] for row in rows[1:]] == [
        ["prior_iwae/version_0", "1.0000", "2.0000", "4.0000", "0.0080000", "Adam"],
        ["prior_iwae/version_1", "1.0000", "2.0000", "2.0000", "0.0040000", "Adam"],
    ]
    assert [len(row[6:]) for row in rows[1:]] == [4, 2]  # the second was not tested
    assert all(-12 < float(value) < 0 for row in rows[1:] for value in row[6:])


class Gallery(Logger):
    """A logger with W&B's way to take pictures, that keeps what it is given."""

    name, version = "gallery", "0"

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[int, str]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.numbers.append((step or 0, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.pictures.append((step, key))
        assert images[0].ndim == 3


def test_other_loggers_get_figures_and_numbers_at_finished_steps(tmp_path: Path) -> None:
    gallery = Gallery()
    module, data = (
        PriorIWAE(inner_samples=4, data_dim=D, decoder=lambda k, d: MLP(k, d, hidden=[4])),
        SmallImages(batch_size=300),
    )
    callbacks = [TrainingBound(), Pictures(side=2)]
    loggers = [gallery, CSVLogger(tmp_path, name="csv")]
    options: dict[str, Any] = {"logger": loggers, "callbacks": callbacks, "max_steps": 4, "val_check_interval": 2}
    small_trainer(tmp_path, **options).fit(module, data)
    assert gallery.pictures[:2] == [(2, "figures/samples of the model"), (2, "figures/means E[x|z], no samples")]
    assert gallery.pictures[-1] == (4, "figures/training curve")
    for name, steps in [("train/bound", [1, 2, 3, 4]), ("val/bound", [2, 4])]:
        assert [step for step, numbers in gallery.numbers if name in numbers] == steps
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["val/bound"]] == ["2", "4"]
    assert [row["step"] for row in rows if row["train/bound"]] == ["1", "2", "3", "4"]
