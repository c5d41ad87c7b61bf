"""Messages of `FeatureService` (`features.proto`).

For `Extract`, only the answer without its features has a record: volumes and feature maps are too large for JSON.
"""

from vfmalign.client.messages.generated.features import *
