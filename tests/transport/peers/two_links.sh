#!/usr/bin/env bash
# All-reduce between two hosts that two links join, one ten times as fast as the other: by shares in
# proportion to what the links carry, against one flat ring.
#   tests/transport/peers/two_links.sh [BUILD_FOLDER]      (default: build/release, else build/dev)
# Needs root: the hosts are network namespaces of its own, the links shaped veth pairs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
build=${1:-build/release}
[ $# -gt 0 ] || [ -x "$build/tests/transport/collective_bench" ] || build=build/dev
bench=$build/tests/transport/collective_bench
[ -x "$bench" ] || { echo "two_links.sh: $bench is not built" >&2; exit 2; }
fast=${FAST_MBIT:-4000} slow=${SLOW_MBIT:-400}
a=cw$$a b=cw$$b
cleanup() { ip netns del $a 2>/dev/null || true; ip netns del $b 2>/dev/null || true; }
trap cleanup EXIT
{ ip netns add $a && ip netns add $b; } || { echo "skipped: needs root and network namespaces"; exit 0; }
for host in $a $b; do ip -n $host link set lo up; done
link() {  # NUMBER MBIT
  ip link add l$1 netns $a type veth peer name l$1 netns $b
  for host in $a $b; do
    ip -n $host link set l$1 up
    ip netns exec $host tc qdisc add dev l$1 root tbf rate "$2mbit" burst 256kb latency 50ms
  done
  ip -n $a addr add 10.98.$1.1/24 dev l$1
  ip -n $b addr add 10.98.$1.2/24 dev l$1
}
link 1 "$fast"
link 2 "$slow"
places=$a/10.98.1.1,$a/10.98.2.1,$b/10.98.1.2,$b/10.98.2.2
for size in 4194304 67108864; do
  for form in --flat ""; do
    echo "links of $fast and $slow Mbit/s, ${form:---weighted, hierarchical}:"
    timeout 120 "$bench" --ranks 4 --islands 2 --at "$places" --sizes $size --rounds 3 $form
  done
done
