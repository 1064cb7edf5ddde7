#!/usr/bin/env bash
# Transfers between two network namespaces over links that tc shapes; needs root.
#   tests/transport/rails_bench.sh [BUILD] [RATE[,RATE] ...]     default: build/dev, 4gbit 4gbit,4gbit
# Each argument is one run: a rate for each network card. Prints what got through, of what was shaped.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${1:-build/dev}")
shift || true
[ $# -gt 0 ] || set -- 4gbit 4gbit,4gbit
if [ "${RAILS_BENCH_INSIDE:-}" = "" ]; then
  RAILS_BENCH_INSIDE=1 exec unshare -n -m "$0" "$build" "$@"
fi
mount -t sysfs sysfs /sys # Where UCX looks for devices.
ip link set lo up

run() {
  unshare -n -m sh -c "mount -t sysfs sysfs /sys; exec sleep 600" &
  local far=$! n=0 hosts=""
  for _ in $(seq 500); do
    [ "$(readlink "/proc/$far/ns/net")" = "$(readlink /proc/$$/ns/net)" ] || break
    sleep 0.01
  done
  for rate in ${1//,/ }; do
    n=$((n + 1))
    ip link add "va$n" type veth peer name "vb$n" netns "$far"
    ip addr add "10.99.$n.1/24" dev "va$n"
    ip link set "va$n" up
    tc qdisc add dev "va$n" root tbf rate "$rate" burst 1mb latency 20ms
    nsenter -t "$far" -n sh -c "ip link set lo up; ip addr add 10.99.$n.2/24 dev vb$n
      ip link set vb$n up; tc qdisc add dev vb$n root tbf rate $rate burst 1mb latency 20ms"
    hosts+=${hosts:+,}10.99.$n.2
  done
  for _ in $(seq 500); do
    nsenter -t "$far" -n -m grep -q up "/sys/class/net/vb$n/operstate" && break
    sleep 0.01
  done
  local out
  out=$(mktemp)
  nsenter -t "$far" -n -m "$build/tests/transport/ucx_peer" serve "$hosts" >"$out" &
  local peer=$!
  for _ in $(seq 500); do
    [ -s "$out" ] && break
    sleep 0.01
  done
  for way in "" --read --verify; do
    echo "$1: $("$build/tests/transport/rails_bench" "$(cat "$out")" $way)"
  done
  kill "$peer" "$far"
  wait "$peer" "$far" 2>/dev/null || true
  rm -f "$out"
  for i in $(seq "$n"); do ip link del "va$i" 2>/dev/null || true; done
}
for rates in "$@"; do run "$rates"; done
