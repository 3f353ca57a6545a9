"""What is raised when a model cannot be cut, or a stage is not used as it must be."""

from baremetal.errors import BaremetalError


class PipelineError(BaremetalError):
    """A model, a batch or an order of work that does not fit the pipeline."""
