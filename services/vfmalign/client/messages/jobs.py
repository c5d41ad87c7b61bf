"""Messages of `FineTuningService` (`finetuning.proto`)."""

from vfmalign.client.messages.generated.finetuning import *
