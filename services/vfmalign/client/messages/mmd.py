"""Messages of `MmdService` (`mmd.proto`).

Samples have no records: their tensors are too large for a detour through JSON. `ComputeOptions` is a `ComputeRequest`
without them, which client, service and engine share.
"""

from vfmalign.client.messages.generated.mmd import *

UNNAMED_LAYER = "features"
"""Name of a layer that the caller does not name, such as that of a sample that is one array."""
