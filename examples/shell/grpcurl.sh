#!/usr/bin/env bash
# The service describes itself by reflection, so that grpcurl needs no .proto file.
TOKEN=$(< "$VFMALIGN_TOKEN_FILE") grpcurl -plaintext -expand-headers -H 'authorization: Bearer ${TOKEN}' -max-time 30 \
  -d @ "$VFMALIGN_MMD_ADDRESS" vfmalign.v1.MmdService/Compute < examples/request.json
