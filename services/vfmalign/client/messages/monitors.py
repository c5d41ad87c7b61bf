"""Messages of `MonitoringService` (`monitoring.proto`)."""

from vfmalign.client.messages.generated.monitoring import *
