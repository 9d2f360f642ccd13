"""What a study without a model is."""

from abc import ABC, abstractmethod


class FreeStudy(ABC):
    """A study that needs no model, and so no config and no checkpoint."""

    @abstractmethod
    def run(self) -> str:
        """Do it, and return the text to print."""
