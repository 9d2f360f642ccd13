"""The page in a browser, from the disk and without a network: what it shows is what PyTorch computes.

It skips where selenium, Chromium or chromedriver is missing.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

import lvm_lightning
from lvm_lightning.data.protocol import examples
from lvm_lightning.evaluation import closed_forms
from lvm_lightning.modules import ExponentialPosterior
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.networks.activations import Activation, activation_of
from lvm_lightning.studies.explorer import IMAGES, PRIOR_POINTS, data_of
from lvm_lightning.studies.run_files import read_run
from tests.conftest import commands_in

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium, or no chromedriver")

QUIET: list[object] = [
    *["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"],
    *["--trainer.limit_val_batches", 1, "--pictures.side", 2],
]
MOVE = {"ArrowRight": (0.1, 0.0), "ArrowUp": (0.0, 0.1), "ArrowLeft": (-0.1, 0.0), "ArrowDown": (0.0, -0.1)}


class Shown(NamedTuple):
    """A page in the browser, and the model that it is about."""

    browser: Any
    module: LatentVariableModule
    x: Tensor
    folder: Path

    def js(self, code: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.browser.execute_script(code, *arguments)

    def wait_for(self, code: str, *arguments: object) -> Any:
        """What a script's promise brings."""
        run = f"(async () => {{ {code} }})().then(done, (error) => done(`${{error}}`))"
        return self.browser.execute_async_script(f"const done = arguments[arguments.length - 1]; {run}", *arguments)

    def text(self, name: str) -> str:
        """The text of an element."""
        return str(self.js("return document.getElementById(arguments[0]).textContent", name))

    def move(self, name: str, value: object) -> None:
        """Move a slider, or choose of a list."""
        event = "change" if name == "source" else "input"
        code = f"e.value = arguments[1]; e.dispatchEvent(new Event('{event}'))"
        self.js(f"const e = document.getElementById(arguments[0]); {code}", name, value)

    def pixels(self, name: str) -> Tensor:
        """What a canvas shows, 1 where it is black."""
        code = (
            "const c = document.getElementById(arguments[0]);"
            "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"
        )
        return 1 - torch.tensor(self.js(code, name)) / 255

    def errors(self) -> list[str]:
        """What the browser complains about; that the tests read canvases is a warning."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def settle(self) -> None:
        """Until log p(x) and the bound of the chosen image are there."""
        self.wait_for("while (!lvm.view.path) await new Promise((go) => setTimeout(go, 20))")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_script_timeout(60)
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


def shown(browser: Any, folder: Path, *options: object) -> Shown:
    """Train in a folder, write the page and open it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: None)  # half of a short run
        commands_in(folder, ["fit", *options, *QUIET])
    (run,) = (folder / "runs").glob("*/version_0")
    commands_in(folder, ["report", run])
    browser.get((run / "report.html").as_uri())
    module = lvm_lightning.load(run)
    data = data_of(read_run(run).settings)
    return Shown(browser, module, examples(data, "test", IMAGES).float(), run)


@pytest.fixture(scope="module")
def digits(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The default prior-IWAE after 300 steps."""
    folder, steps = tmp_path_factory.mktemp("digits"), ["--trainer.max_steps", 300, "--trainer.val_check_interval", 150]
    page = shown(browser, folder, "--config", "prior_iwae", "--model.inner_samples", 64, *steps)
    page.wait_for("await lvm.ready")
    return page


def mean(page: Shown, z: list[float]) -> Tensor:
    with torch.no_grad():
        return page.module.model.likelihood.mean(page.module.model.decode(torch.tensor([z])))[0]


def prior_points(page: Shown) -> Tensor:
    points = torch.tensor(page.js("return priorPoints"))
    assert points.shape == (PRIOR_POINTS, 2)
    return points


def test_nothing_is_asked_of_a_network_and_nothing_fails(digits: Shown) -> None:
    assert digits.js("return location.protocol") == "file:"
    names = digits.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith(("data:", "file:")) for name in names)
    html = (digits.folder / "report.html").read_text()
    assert len(html.encode()) < 6_000_000
    assert not re.findall(r"(?:src|href)=\"?http", html)
    assert digits.errors() == []


def test_probabilities_of_pixels_are_those_of_the_decoder(digits: Shown) -> None:
    for z in ([0.0, 0.0], [1.5, -0.7], [-2.2, 0.3], [3.9, -3.9], [-0.05, 2.5]):
        found = torch.tensor(digits.js("return lvm.mean(arguments[0])", z))
        torch.testing.assert_close(found, mean(digits, z), rtol=0, atol=2e-3)


def test_activations_are_those_of_the_package(digits: Shown) -> None:
    x = torch.linspace(-8, 8, 201)
    for name in get_args(Activation):
        found = digits.js("return arguments[1].map(ACTIVATIONS[arguments[0]])", name, x.tolist())
        torch.testing.assert_close(torch.tensor(found), activation_of(name)(x.clone()), rtol=1e-5, atol=2e-6)


def test_log_p_is_that_of_the_quadrature(digits: Shown) -> None:
    exact = digits.module.log_prob(digits.x[:20]).value
    found = digits.wait_for("const all = []; for (let n = 0; n < 20; n++) all.push(await lvm.integrate(n)); return all")
    values, errors = (torch.tensor([each[name] for each in found]).double() for name in ("value", "error"))
    torch.testing.assert_close(values, exact, rtol=0, atol=0.05)
    assert float(errors.max()) < 0.05


def test_the_point_follows_the_pointer_and_the_keys(digits: Shown) -> None:
    plane = digits.browser.find_element("id", "plane")
    digits.js("arguments[0].scrollIntoView({block: 'center'})", plane)
    chain = webdriver.ActionChains(digits.browser, duration=50)
    chain.move_to_element(plane).click_and_hold().move_by_offset(60, -90).release().perform()
    side = digits.js("return arguments[0].clientWidth", plane)
    z = digits.wait_for("await new Promise(requestAnimationFrame); return lvm.view.z")
    scale = 8 / (side - 2 * 34)
    assert z == pytest.approx([60 * scale, 90 * scale], abs=2 * scale)
    torch.testing.assert_close(digits.pixels("mean"), mean(digits, z), rtol=0, atol=2e-3 + 1 / 255)
    for key, by in MOVE.items():
        before = digits.js("return lvm.view.z")
        plane.send_keys(getattr(webdriver.Keys, re.sub("(?<=w)(?=[A-Z])", "_", key).upper()))
        after = digits.wait_for("await new Promise(requestAnimationFrame); return lvm.view.z")
        assert after == pytest.approx([a + b for a, b in zip(before, by, strict=True)], abs=1e-6)
    assert "log p(x|z) = " in digits.text("point")


def test_the_bound_is_that_of_the_prior_points(digits: Shown) -> None:
    digits.wait_for("await lvm.choose(3)")
    with torch.no_grad():
        exact = digits.module.model.log_likelihood(digits.x[3:4], prior_points(digits).unsqueeze(1))[:, 0].double()
    found = torch.tensor(digits.wait_for("return await lvm.logWeights(3)")).double()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0.02)
    for place in (0, 50, 100):
        digits.move("samples", place)
        N = round(PRIOR_POINTS ** (place / 100))
        value = float(exact[:N].logsumexp(0)) - torch.tensor(N).log()
        told = re.search(r"N = (\d+): log 1/N Σ w = (−?[\d.]+) nats", digits.text("bound-told"))
        assert told is not None
        assert int(told[1]) == N
        assert float(told[2].replace("−", "-")) == pytest.approx(float(value), abs=0.03)


def test_every_control_does_what_it_says(digits: Shown) -> None:
    digits.move("image", 7)
    digits.settle()
    assert digits.text("image-title") == "Test image 8"
    assert torch.equal(digits.pixels("chosen"), digits.x[7])
    sheet = digits.browser.find_element("id", "sheet")
    digits.js("arguments[0].scrollIntoView({block: 'center'})", sheet)
    webdriver.ActionChains(digits.browser).move_to_element(sheet).click().perform()
    digits.settle()
    chosen = digits.js("return lvm.view.number")
    assert 40 <= chosen < 60  # 20 a row: the middle one of five
    assert torch.equal(digits.pixels("chosen"), digits.x[chosen])
    digits.browser.find_element("id", "edit").click()
    digits.settle()
    assert digits.text("image-title") == "Your own image"
    assert torch.equal(digits.pixels("own"), digits.x[chosen])
    digits.browser.find_element("id", "clear").click()
    assert not digits.pixels("own").any()
    own = digits.browser.find_element("id", "own")
    webdriver.ActionChains(digits.browser).move_to_element(own).click_and_hold().move_by_offset(
        0, 30
    ).release().perform()
    digits.settle()
    drawn = digits.pixels("own")
    assert 5 < drawn.sum() < 60
    value = digits.js("return lvm.view.result.value")
    assert value == pytest.approx(float(digits.module.log_prob(drawn.unsqueeze(0)).value), abs=0.05)
    before = digits.pixels("drawn")
    digits.browser.find_element("id", "draw").click()
    assert not torch.equal(digits.pixels("drawn"), before)
    assert set(digits.pixels("drawn").unique().tolist()) == {0.0, 1.0}
    with_mosaic = digits.pixels("plane")
    digits.browser.find_element("id", "mosaic").click()
    assert not torch.equal(digits.pixels("plane"), with_mosaic)


def test_it_can_be_used_without_seeing_it_and_is_large_enough_to_read(digits: Shown) -> None:
    named = "(e) => e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()"
    controls = "[...document.querySelectorAll('#explorer input, #explorer select, #explorer button, #explorer canvas')]"
    nameless = digits.js(
        f"return {controls}.filter((e) => !e.closest('.uplot') && !({named})(e)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    sizes = digits.js(
        "return [...document.querySelectorAll('body *')].map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 9
    digits.browser.set_window_size(500, 900)
    assert digits.js("return document.documentElement.scrollWidth <= window.innerWidth")
    digits.browser.set_window_size(1200, 1000)


def test_a_drag_is_smooth_and_the_page_is_soon_there(digits: Shown) -> None:
    frames = digits.wait_for(
        "let frames = 0; const start = performance.now();"
        "while (performance.now() - start < 1000) {"
        "  lvm.movePoint([2 * Math.sin(frames / 20), 2 * Math.cos(frames / 20)]);"
        "  await new Promise(requestAnimationFrame); frames++; } return frames"
    )
    assert frames > 15  # about 60 on an idle core; a test's machine has other work
    assert digits.js("return lvm.interactive") < 10_000


def test_an_encoder_adds_its_ellipse_and_its_points(browser: Any, tmp_path: Path) -> None:
    small = ["--model.latent_dim", 2, "--model.decoder.hidden", "[33]", "--trainer.max_steps", 40]
    page = shown(browser, tmp_path, "--config", "burda_vae", *small, "--trainer.val_check_interval", 40)
    page.wait_for("await lvm.ready")
    with torch.no_grad(), page.module.full_precision():
        q: Any = page.module.propose(page.x[:5])
        expected = torch.cat([q.mean, q.log_sigma.exp()], -1)
    found = page.js("return DATA.explorer.proposals.slice(0, 5)")
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)
    page.js("document.getElementById('source').value = 'proposal'")
    page.wait_for("await lvm.choose(2)")
    noise = prior_points(page)[:256]
    z = q.mean[2] + q.log_sigma[2].exp() * noise
    with torch.no_grad():
        log_lik, log_prior = page.module.model.log_joint(page.x[2:3], z.unsqueeze(1))
        log_q = torch.distributions.Normal(q.mean[2], q.log_sigma[2].exp()).log_prob(z).sum(-1)
    weights = torch.tensor(page.js("return [...lvm.view.path.weights]"))
    torch.testing.assert_close(weights, log_lik[:, 0] + log_prior[:, 0] - log_q, rtol=1e-4, atol=0.02)
    page.move("source", "prior")
    page.settle()
    assert page.js("return lvm.view.path.weights.length") == PRIOR_POINTS
    assert page.errors() == []


def test_the_toy_adds_up_to_log_p(browser: Any, tmp_path: Path) -> None:
    page = shown(browser, tmp_path, "--config", "exponential_posterior", "--trainer.max_steps", 20)
    assert isinstance(page.module, ExponentialPosterior)
    problem = page.module.problem(page.x.double()[:1])
    for place in (0, 300, 1000):
        page.move("theta", place)
        theta = page.js("return theta")
        assert page.js("return lvm.elbo(theta)") == pytest.approx(
            float(closed_forms.elbo(problem, torch.tensor(theta))), abs=1e-4
        )
        assert f"= log p(x) {closed_forms.log_marginal(problem):.4f}".replace("-", "−") in page.text("toy-told")
    z, density = (torch.tensor(page.js(f"return lvm.{name}"), dtype=torch.float64) for name in ("zs", "posterior"))
    torch.testing.assert_close(density, closed_forms.log_posterior(problem, z).exp(), rtol=1e-3, atol=1e-6)
    page.browser.find_element("id", "theta-best").click()
    assert page.js("return theta") == pytest.approx(closed_forms.best_rate(problem))
    page.browser.find_element("id", "theta-trained").click()
    assert page.js("return theta") == pytest.approx(float(page.module.theta))
    assert page.errors() == []


def test_more_axes_are_explored_two_at_a_time(browser: Any, tmp_path: Path) -> None:
    decoder = ["--model.decoder", "ResidualMLP", "--model.decoder.width", 33]
    short = ["--trainer.max_steps", 60, "--trainer.val_check_interval", 60]
    page = shown(browser, tmp_path, "--config", "burda_vae", "--model.latent_dim", 5, *decoder, *short)
    page.wait_for("await lvm.ready")
    with torch.no_grad(), page.module.full_precision():
        q: Any = page.module.propose(page.x)
    kl = q.kl_per_dimension().mean(0)
    chosen = kl.argsort(descending=True)[:2].tolist()
    assert page.js("return lvm.view.axes") == chosen
    assert f"KL {float(kl[chosen[0]]):.2f} nats" in page.js("return document.getElementById('axis-1').options[0].text")
    page.wait_for("await lvm.choose(7)")
    z = torch.tensor(page.js("return lvm.view.z"))
    torch.testing.assert_close(z, q.mean[7], rtol=1e-4, atol=1e-5)

    def assert_shown() -> None:
        """The image at the point, and log p(x, z) over the two axes, are those of PyTorch."""
        z, axes = torch.tensor(page.js("return lvm.view.z")), page.js("return lvm.view.axes")
        torch.testing.assert_close(page.pixels("mean").view(-1), mean(page, z.tolist()), rtol=0, atol=4e-3)
        on = torch.linspace(-4, 4, 25)
        grid = z.expand(25, 25, 5).clone()
        grid[..., axes[0]], grid[..., axes[1]] = on.unsqueeze(1), on
        with torch.no_grad():
            log_lik, log_prior = page.module.model.log_joint(page.x[7:8], grid.view(-1, 1, 5))
        found = torch.tensor(page.js("return [...lvm.view.slice]"))
        torch.testing.assert_close(found, (log_lik + log_prior)[:, 0], rtol=1e-4, atol=0.05)

    assert_shown()
    plane = page.browser.find_element("id", "plane")
    page.js("arguments[0].scrollIntoView({block: 'center'})", plane)
    plane.send_keys("\ue014\ue014\ue013")  # right, right, up
    page.wait_for("await new Promise((go) => requestAnimationFrame(() => setTimeout(go, 0)))")
    z[chosen[0]] += 0.2
    z[chosen[1]] += 0.1
    torch.testing.assert_close(torch.tensor(page.js("return lvm.view.z")), z)
    assert_shown()
    other = next(k for k in range(5) if k not in chosen)
    page.wait_for("await lvm.turn(1, arguments[0])", other)
    assert page.js("return lvm.view.axes") == [chosen[0], other]
    assert_shown()  # the axis that is left stays where it was moved to
    page.wait_for("await lvm.turn(0, arguments[0])", other)
    assert page.js("return lvm.view.axes") == [other, chosen[0]]
    page.browser.find_element("id", "back").click()
    torch.testing.assert_close(torch.tensor(page.js("return lvm.view.z")), q.mean[7], rtol=1e-4, atol=1e-5)
    for name in ("draw", "mosaic", "sheet"):
        page.browser.find_element("id", name).click()
    page.move("image", 3)
    page.wait_for("while (!lvm.view.slice) await new Promise((go) => setTimeout(go, 20))")
    assert page.text("image-title") == "Test image 4"
    assert page.errors() == []
