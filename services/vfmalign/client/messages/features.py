"""Messages of `FeatureService` (`features.proto`).

Of `Extract`, the answer without its features has a record: volumes and feature maps are too large for a detour through
JSON.
"""

from vfmalign.client.messages.generated.features import *
