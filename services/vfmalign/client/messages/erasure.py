"""Messages of `erasure.proto`."""

from vfmalign.client.messages.generated.erasure import *
