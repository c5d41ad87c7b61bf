"""Messages of `DatasetService` and `ModelService` (`imports.proto`)."""

from vfmalign.client.messages.generated.imports import *
