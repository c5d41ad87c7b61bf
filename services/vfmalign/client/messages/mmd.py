"""Messages of `MmdService` (`mmd.proto`).

Samples have no records: their tensors are too large for JSON. `ComputeOptions` is a `ComputeRequest` without samples,
which client, service and engine share.
"""

from vfmalign.client.messages.generated.mmd import *

UNNAMED_LAYER = "features"
"""Name of a layer if the caller gives none, such as for a sample that is a single array."""
