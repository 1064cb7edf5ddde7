#!/usr/bin/env bash
# Runs a test; again, at most twice and saying so, if UCX 1.13 itself ended it by the one assertion
# that docs/transport.md describes. Any other failure counts at once.
#   known_ucx_defect.sh COMMAND...
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for attempt in 1 2 3; do
  "$@" 2>&1 | tee "$log"
  code=${PIPESTATUS[0]}
  [ "$code" -ne 0 ] || exit 0
  grep -q "Assertion \`comp->count > 0' failed" "$log" || exit "$code"
  echo "known defect of UCX 1.13 (docs/transport.md), attempt $attempt: a send in flight to a dead peer"
done
exit "$code"
