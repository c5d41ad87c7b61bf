"""Messages of `FeatureService` (`features.proto`).

The record of `Extract` contains the answer without its features: volumes and feature maps are too large for JSON.
"""

from vfmalign.client.messages.generated.features import *
