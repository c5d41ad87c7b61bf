#!/bin/sh
# Prints the Secrets of the local overlay, in both of its namespaces, with fresh random credentials:
#   k8s/overlays/local/credentials.sh | kubectl create --save-config -f -
# Use `create`, not `apply`: the database keeps the password of its first start. `credentials.sh store` prints those of the object
# storage alone, to replace them (docs/operations.md).
set -euf # no file names in place of *
random() { head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }

# print_keys NAMESPACE SECRET ACTION...: prints a Secret with keys of the object storage, and adds their identity to those that the
# S3 server reads.
identities=
print_keys() {
  namespace=$1 name=$2
  shift 2
  id=$(random) secret=$(random) actions=
  for action; do actions="$actions, \"$action\""; done
  identities="$identities${identities:+,}
      {\"name\": \"$name\", \"actions\": [${actions#, }],
       \"credentials\": [{\"accessKey\": \"$id\", \"secretKey\": \"$secret\"}]}"
  cat <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: $name
  namespace: $namespace
stringData:
  AWS_ACCESS_KEY_ID: $id
  AWS_SECRET_ACCESS_KEY: $secret
---
EOF
}

# allow KIND... -- KIND...: the actions of a workload that reads the first kinds of objects and writes the last ones.
allow() {
  verb=Read
  printf List:vfmalign
  for kind; do
    case $kind in
      --) verb=Write ;;
      *) printf ' %s:vfmalign/default/%s/*' "$verb" "$kind" ;;
    esac
  done
}

# What vfmalign.core.storage.store.access says of each workload, in SeaweedFS's words. The lists are meant to be split.
# shellcheck disable=SC2046
{
  print_keys vfmalign vfmalign-store Admin Read Write List Tagging
  print_keys vfmalign vfmalign-store-features $(allow datasets erasures/features features incoming models outbox uploads volumes \
    -- datasets deletions erasures/features features incoming models outbox volumes)
  print_keys vfmalign vfmalign-store-mmd $(allow features uploads -- uploads/features)
  print_keys vfmalign vfmalign-store-finetuning $(allow cells checks datasets erasures/finetuning experiments features jobs models studies \
    -- cells checks erasures/finetuning experiments jobs uses)
  print_keys vfmalign vfmalign-store-monitoring $(allow datasets erasures/monitoring features monitors \
    -- erasures/monitoring monitors)
  print_keys vfmalign-jobs vfmalign-store-training $(allow datasets jobs models volumes -- jobs models)
}
cat <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-s3
  namespace: vfmalign
stringData:
  identities.json: |
    {"identities": [$identities
    ]}
EOF
[ "${1-}" != store ] || exit 0
password=$(random)
cat <<EOF
---
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-database
  namespace: vfmalign
stringData:
  POSTGRES_PASSWORD: $password
  VFMALIGN_DATABASE__URL: postgresql://vfmalign:$password@vfmalign-postgresql:5432/vfmalign
---
apiVersion: v1
kind: Secret
metadata:
  name: vfmalign-database-monitoring
  namespace: vfmalign
stringData:
  VFMALIGN_DATABASE__URL: postgresql://vfmalign:$password@vfmalign-postgresql:5432/vfmalign_monitoring
EOF
