"""An evaluator of one's own."""

from collections.abc import Iterator

from lvm_lightning.evaluation import Evaluator, Given, Measured


class AtTheLocation(Evaluator):
    """log p(x|z) where the proposal lies."""

    def measure(self, given: Given) -> Iterator[Measured]:
        log_lik = given.model.log_likelihood(given.batch.x, given.q.location)
        yield Measured("log p(x|z) at q's location", log_lik, "stochastic estimate", 1)
