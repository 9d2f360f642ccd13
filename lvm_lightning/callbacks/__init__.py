"""When to draw, log and write; nothing here knows how a bound is computed."""

from lvm_lightning.callbacks.finite import FiniteGuard
from lvm_lightning.callbacks.pictures import ExponentialPictures, Pictures, PosteriorPictures
from lvm_lightning.callbacks.progress import BoundProgressBar
from lvm_lightning.callbacks.run_checkpoint import RunCheckpoint
from lvm_lightning.callbacks.run_folder import EvaluationReport, Predictions
from lvm_lightning.callbacks.training import CompiledNetworks, TrainingBound
from lvm_lightning.callbacks.validation import ValidationReport
