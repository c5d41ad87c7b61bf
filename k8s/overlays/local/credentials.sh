#!/bin/sh
# Prints the two Secrets of the local overlay with fresh random credentials:
#   k8s/overlays/local/credentials.sh | kubectl -n vfmalign create -f -
# kubectl chooses the namespace. Use `create`, not `apply`: the database keeps the password of its first start.
set -eu
random() { head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }
password=$(random)
cat <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-store
stringData:
  AWS_ACCESS_KEY_ID: $(random)
  AWS_SECRET_ACCESS_KEY: $(random)
---
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-database
stringData:
  POSTGRES_PASSWORD: $password
  VFMALIGN_DATABASE__URL: postgresql://vfmalign:$password@vfmalign-postgresql:5432/vfmalign
EOF
