"""Messages of `MmdService` (`mmd.proto`).

Samples have no record class, because their tensors are too large for JSON. Client, service and engine share
`ComputeOptions`, which is a `ComputeRequest` without samples.
"""

from vfmalign.client.messages.generated.mmd import *

UNNAMED_LAYER = "features"
"""Name of a layer if the caller gives none, such as for a sample that is a single array."""
