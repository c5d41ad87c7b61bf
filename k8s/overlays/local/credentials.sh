#!/bin/sh
# Prints the Secrets of the local overlay, in both of its namespaces, with fresh random credentials:
#   k8s/overlays/local/credentials.sh | kubectl create -f -
# Use `create`, not `apply`: the database keeps the password of its first start.
set -eu
random() { head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }
password=$(random)
id=$(random)
secret=$(random)
cat <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-store
  namespace: vfmalign
stringData:
  AWS_ACCESS_KEY_ID: $id
  AWS_SECRET_ACCESS_KEY: $secret
---
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-store-training
  namespace: vfmalign-jobs
stringData:
  AWS_ACCESS_KEY_ID: $id
  AWS_SECRET_ACCESS_KEY: $secret
---
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-database
  namespace: vfmalign
stringData:
  POSTGRES_PASSWORD: $password
  VFMALIGN_DATABASE__URL: postgresql://vfmalign:$password@vfmalign-postgresql:5432/vfmalign
EOF
