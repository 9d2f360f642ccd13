"""One LightningModule a system family."""

from lvm_lightning.modules.exponential_posterior import ExponentialPosterior
from lvm_lightning.modules.gaussian_vae import GaussianVAE
from lvm_lightning.modules.laplace_iwae import LaplaceIWAE
from lvm_lightning.modules.latent_mixture import LatentMixture
from lvm_lightning.modules.prior_iwae import PriorIWAE
