"""Messages of `ExperimentService` (`experiment.proto`)."""

from vfmalign.client.messages.generated.experiment import *
