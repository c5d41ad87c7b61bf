"""Messages of `FeatureService` (`features.proto`).

The record of `Extract` contains the response without its features, because feature maps are too large for JSON.
"""

from vfmalign.client.messages.generated.features import *
