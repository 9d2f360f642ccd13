"""When to draw, log and write; nothing here knows how a bound is computed."""

from lvm_lightning.callbacks.compiled import CompiledNetworks
from lvm_lightning.callbacks.evaluation_report import EvaluationReport
from lvm_lightning.callbacks.exponential_pictures import ExponentialPictures
from lvm_lightning.callbacks.finite import FiniteGuard
from lvm_lightning.callbacks.pictures import Pictures
from lvm_lightning.callbacks.posterior_pictures import PosteriorPictures
from lvm_lightning.callbacks.predictions import Predictions
from lvm_lightning.callbacks.progress import BoundProgressBar
from lvm_lightning.callbacks.run_checkpoint import RunCheckpoint
from lvm_lightning.callbacks.training_bound import TrainingBound
