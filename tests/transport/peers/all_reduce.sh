#!/usr/bin/env bash
# All-reduce of floats by the processes of this machine: ours against gloo and Open MPI, one after
# the other in each of three rounds.
#   tests/transport/peers/all_reduce.sh [BUILD_FOLDER]      (default: build/release, else build/dev)
# Peers: Debian's libgloo-dev, libopenmpi-dev and openmpi-bin; one that is not there is skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
build=${1:-build/release}
[ $# -gt 0 ] || [ -x "$build/tests/transport/collective_bench" ] || build=build/dev
bench=$build/tests/transport/collective_bench
[ -x "$bench" ] || { echo "all_reduce.sh: $bench is not built" >&2; exit 2; }
sizes=(65536 1048576 4194304 16777216)

folder=$(mktemp -d /tmp/cw-peers-XXXXXX)
trap 'rm -rf "$folder"' EXIT
compile() { ${CXX:-g++} -std=c++20 -O2 -I. "$@" 2>"$folder/errors"; }
has_gloo=1 has_mpi=1
compile tests/transport/peers/gloo_all_reduce.cpp -o "$folder/gloo" -lgloo -lpthread ||
  { has_gloo=0; echo "skipped: gloo (apt install libgloo-dev)"; }
command -v mpicxx mpirun >/dev/null &&
  CXX=mpicxx compile tests/transport/peers/mpi_all_reduce.cpp -o "$folder/mpi" ||
  { has_mpi=0; echo "skipped: Open MPI (apt install libopenmpi-dev openmpi-bin)"; }

gloo() {
  local meet rank
  meet=$(mktemp -d "$folder/meet-XXXXXX")
  for ((rank = 1; rank < $1; ++rank)); do
    timeout 120 "$folder/gloo" "$meet" "$rank" "$1" "${sizes[@]}" &
  done
  timeout 120 "$folder/gloo" "$meet" 0 "$1" "${sizes[@]}"
  wait
}
mpi() {
  local ranks=$1
  shift
  timeout 120 mpirun --allow-run-as-root --oversubscribe -np "$ranks" "$@" "$folder/mpi" "${sizes[@]}"
}

for round in 1 2 3; do
  for ranks in 2 4 8; do
    "$bench" --ranks "$ranks" --sizes "$(IFS=,; echo "${sizes[*]}")"
    if [ $has_gloo = 1 ]; then gloo "$ranks"; fi
    if [ $has_mpi = 1 ]; then
      mpi "$ranks" --mca btl tcp,self | sed 's/^MPI/MPI by TCP/'
      mpi "$ranks" | sed 's/^MPI/MPI by shared memory/'
    fi
  done
done | tee "$folder/lines"

echo
echo "Medians of three rounds, GB/s (bytes by time):"
awk -F'[:, ]+' '
  { who = $0; sub(/: .*/, "", who)
    rest = $0; sub(/^[^:]*: /, "", rest); split(rest, w, /[ ,:]+/)
    key = w[3] "|" w[1] "|" who
    n[key]++; value[key, n[key]] = w[7]
  }
  END {
    for (key in n) {
      a = value[key, 1]; b = value[key, 2]; c = value[key, 3]
      if (a > b) { t = a; a = b; b = t }
      if (b > c) { t = b; b = c; c = t }
      if (a > b) { t = a; a = b; b = t }
      split(key, part, "|")
      printf "%2d ranks  %9d bytes  %7.3f  %s\n", part[1], part[2], b, part[3]
    }
  }' "$folder/lines" | sort -k1n -k3n -k6
