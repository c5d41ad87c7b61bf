"""Messages of `FeatureService` (`features.proto`).

`Extract` has no records: its volumes and feature maps are too large for a detour through JSON.
"""

from vfmalign.client.messages.generated.features import *
