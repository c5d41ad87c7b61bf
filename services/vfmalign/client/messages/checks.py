"""Messages of `AlignmentService` (`alignment.proto`)."""

from vfmalign.client.messages.generated.alignment import *
