#!/usr/bin/env bash
# Run in the root of the repository. The header comes from a file, so that `ps` does not show the token.
buf curl --schema proto --protocol grpc --http2-prior-knowledge --data @examples/request.json \
  --header @<(printf 'authorization: Bearer %s\n' "$(< "$VFMALIGN_TOKEN_FILE")") \
  "http://$VFMALIGN_MMD_ADDRESS/vfmalign.v1.MmdService/Compute"
