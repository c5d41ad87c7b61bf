#!/bin/sh
# Verifies the signed result of a check with a plan, for a release pipeline (docs/gates.md). It needs cosign, jq and base64.
#
# usage: verify-statement.sh KEY REPORT STATEMENT MODEL_SHA256 DATASET_DIGEST [--allow-warned]
#
# KEY is the public key of the deployment, and REPORT and STATEMENT are the files of `vfmalign checks statement ID`. The exit status
# is 0 only if the statement is signed by KEY, is about REPORT and about this model and dataset, and has the result PASSED.
# --allow-warned also accepts WARNED.
set -eu
[ $# -ge 5 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
key=$1 report=$2 statement=$3 model=$4 dataset=$5 allowed='["PASSED"]'
[ "${6-}" != --allow-warned ] || allowed='["PASSED", "WARNED"]'

# Go reads a key `Payload` as `payload`, so that jq and cosign would read different payloads of a file with further keys.
jq -es 'length == 1 and (.[0] | keys == ["payload", "payloadType", "signatures"])' "$statement" > /dev/null ||
  { echo "refused: the statement is not a DSSE envelope" >&2; exit 1; }

# cosign verifies the signature, the type and the digest of the report, but accepts every result.
cosign verify-blob-attestation --key "$key" --signature "$statement" --type https://in-toto.io/attestation/test-result/v0.1 \
  --insecure-ignore-tlog=true "$report"

jq -r .payload "$statement" | base64 -d | jq -e --arg model "$model" --arg dataset "$dataset" --argjson allowed "$allowed" '
  def digest($name): [.predicate.configuration[] | select(.name == $name) | .digest.sha256];
  (.predicate.result as $result | $allowed | index($result) != null)
  and digest("model") == [$model] and digest("dataset") == [$dataset]' > /dev/null ||
  { echo "refused: another result, model or dataset than required" >&2; exit 1; }
