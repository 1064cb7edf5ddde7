#!/usr/bin/env bash
# The table of docs/transport.md: how fast bytes cross between two processes of this machine, ours
# and others', one after the other in each of several rounds, and what must hold of it.
#   tests/transport/peers/table.sh [--rounds N] [--sizes BYTES,BYTES] [--build FOLDER]
#                                  [--wheels PYTHON] [--lines FILE]
# Peers: ucx_perftest (ucx-utils), iperf3, gloo (libgloo-dev), Open MPI (libopenmpi-dev, openmpi-bin),
#        and from a virtual environment whose python is PYTHON (default: $CAUSEWAY_PEERS_PYTHON)
#        NIXL (nixl-cu12, needs no CUDA driver) and Mooncake (mooncake-transfer-engine-non-cuda):
#          python3 -m venv DIR && DIR/bin/pip install --no-deps nixl nixl-cu12 numpy \
#            mooncake-transfer-engine-non-cuda
#        One that is not there, or does not end in time, is said and left out.
# Output: Markdown, then the verdicts; --lines keeps every figure of every round.
# Exit:   0 measured, whatever the verdicts; 1 ours failed; 2 usage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
rounds=5 sizes=4096,65536,1048576,4194304,67108864 build= wheels=${CAUSEWAY_PEERS_PYTHON:-} lines=
while [ $# -gt 0 ]; do
  [ $# -gt 1 ] || { echo "table.sh: $1 wants a value" >&2; exit 2; }
  case $1 in
    --rounds) rounds=$2 ;;
    --sizes) sizes=$2 ;;
    --build) build=$2 ;;
    --wheels) wheels=$2 ;;
    --lines) lines=$2 ;;
    *) echo "table.sh: what is $1?" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$build" ] || { [ -x build/release/tests/transport/ucx_copy_bench ] && build=build/release; } ||
  build=build/dev
bench=$build/tests/transport/ucx_copy_bench
[ -x "$bench" ] || { echo "table.sh: $bench is not built" >&2; exit 2; }
IFS=, read -ra size_list <<<"$sizes"

folder=$(mktemp -d /tmp/cw-table-XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
figures=${lines:-$folder/figures}
: >"$figures"
skip() { grep -qxF "skipped: $*" "$folder/skipped" 2>/dev/null || echo "skipped: $*" | tee -a "$folder/skipped"; }

compile() { ${CXX:-g++} -std=c++20 -O2 -I. "$@" 2>"$folder/errors"; }
has_gloo=1 has_mpi=1
compile tests/transport/peers/gloo_copy.cpp -o "$folder/gloo" -lgloo -lpthread ||
  { has_gloo=0; skip "gloo (apt install libgloo-dev)"; }
command -v mpicxx mpirun >/dev/null &&
  CXX=mpicxx compile tests/transport/peers/mpi_copy.cpp -o "$folder/mpi" ||
  { has_mpi=0; skip "Open MPI (apt install libopenmpi-dev openmpi-bin)"; }

# Standard input has lines "OPERATION BYTES FIGURE"; what else is there, is of no interest.
keep() { # LINK WHO
  local operation bytes figure
  while read -r operation bytes figure; do
    [[ $operation =~ ^(write|read|send|half_trip)$ && $figure =~ ^[0-9.]+$ ]] || continue
    echo "$round|$1|$2|$operation|$bytes|$figure" >>"$figures"
  done
}

ours() { # LINK SIZE
  local options=(--no-perftest --json --rounds 1 --sizes "$2")
  [ "$1" = tcp ] || options+=(--shared-memory)
  timeout 120 "$bench" "${options[@]}" >"$folder/ours" || { echo "ours failed" >&2; exit 1; }
  {
    sed -n 's/.*"write_gb_s":\([0-9.]*\).*/write '"$2"' \1/p' "$folder/ours"
    sed -n 's/.*"read_gb_s":\([0-9.]*\).*/read '"$2"' \1/p' "$folder/ours"
    sed -n 's/.*"send_gb_s":\([0-9.]*\).*/send '"$2"' \1/p' "$folder/ours"
    [ "$2" != "${size_list[0]}" ] ||
      sed -n 's/.*"half_round_trip_8_bytes_us":\([0-9.]*\).*/half_trip 8 \1/p' "$folder/ours"
  } | keep "$1" causeway
}

port=$((20000 + $$ % 20000))
# ucx_perftest's last line: iterations,percentile,average,overall latency,average,overall MiB/s,...
perftest() { # LINK TEST BYTES FIELD OPTIONS...
  local link=$1 test=$2 bytes=$3 field=$4 tls=tcp server count
  shift 4
  [ "$link" = tcp ] || tls=posix,cma
  count=$(((512 << 20) / bytes))
  count=$((count < 20 ? 20 : count > 10000 ? 10000 : count))
  port=$((port + 1))
  UCX_TLS=$tls timeout 60 ucx_perftest -p $port "$@" >"$folder/server" 2>&1 & server=$!
  for ((try = 0; try < 40; ++try)); do
    UCX_TLS=$tls timeout 30 ucx_perftest 127.0.0.1 -p $port -t "$test" -s "$bytes" -n "$count" \
      -w $((count / 10 + 1)) -f -v "$@" >"$folder/client" 2>&1 && break
    grep -q "onnection refused" "$folder/client" || break
    sleep 0.1
  done
  kill $server 2>/dev/null || true
  wait $server 2>/dev/null || true
  sed -n '$p' "$folder/client" | awk -F, -v field="$field" 'NF > 5 { print $field }'
}
copy_perftest() { # LINK TEST BYTES OPERATION WHO OPTIONS...
  local link=$1 test=$2 bytes=$3 operation=$4 who=$5 rate
  shift 5
  rate=$(perftest "$link" "$test" "$bytes" 6 "$@") || true
  [ -n "$rate" ] || { skip "$who by $link: $(grep -m1 -o 'ERROR.*' "$folder/client" || echo 'no figure')"; return; }
  awk -v r="$rate" -v o="$operation" -v b="$bytes" 'BEGIN { printf "%s %s %.4f\n", o, b, r * 1048576 / 1e9 }' |
    keep "$link" "$who"
}
raw_ucx() { # LINK SIZE
  command -v ucx_perftest >/dev/null || { skip "ucx_perftest (apt install ucx-utils)"; return; }
  local mode=() figure
  if [ "$1" = tcp ]; then
    mode=(-e)
    copy_perftest "$1" tag_bw "$2" send "ucx tag_bw"
    copy_perftest "$1" ucp_am_bw "$2" send "ucx am_bw"
  fi
  local suffix=${mode:+, peer errors}
  copy_perftest "$1" tag_bw "$2" send "ucx tag_bw$([ "$1" = tcp ] && echo "$suffix")" "${mode[@]}"
  copy_perftest "$1" ucp_am_bw "$2" send "ucx am_bw$([ "$1" = tcp ] && echo "$suffix")" "${mode[@]}"
  copy_perftest "$1" ucp_put_bw "$2" write "ucx put_bw$([ "$1" = tcp ] && echo "$suffix")" "${mode[@]}"
  copy_perftest "$1" ucp_get "$2" read "ucx get$([ "$1" = tcp ] && echo "$suffix")" "${mode[@]}"
  [ "$2" = "${size_list[0]}" ] || return 0
  for figure in "ucx am_lat" ${mode:+"ucx am_lat, peer errors"}; do
    mode=()
    [[ $figure != *errors ]] || mode=(-e)
    echo "half_trip 8 $(perftest "$1" ucp_am_lat 8 4 "${mode[@]}" || true)" | keep "$1" "$figure"
  done
}

iperf() { # SIZE; a block is 1 MiB at most.
  command -v iperf3 >/dev/null || { skip "iperf3 (apt install iperf3)"; return; }
  local block=$(($1 > 1048576 ? 1048576 : $1)) operation server rate
  for operation in write read; do
    port=$((port + 1))
    timeout 30 iperf3 -s -1 -p $port >"$folder/server" 2>&1 & server=$!
    for ((try = 0; try < 40; ++try)); do
      timeout 20 iperf3 -c 127.0.0.1 -p $port -t 1 -l "$block" -J \
        $([ $operation = write ] || echo -R) >"$folder/client" 2>&1 && break
      sleep 0.1
    done
    kill $server 2>/dev/null || true
    wait $server 2>/dev/null || true
    rate=$(grep -A6 '"sum_received"' "$folder/client" | sed -n 's/.*"bits_per_second":[^0-9]*\([0-9.e+]*\).*/\1/p' | head -1) || true
    [ -n "$rate" ] || { skip "iperf3 ($operation): no figure"; continue; }
    awk -v r="$rate" -v o=$operation -v b="$1" 'BEGIN { printf "%s %s %.4f\n", o, b, r / 8e9 }' | keep tcp iperf3
  done
}

wheel() { # LINK NAME SIZE TLS
  [ -n "$wheels" ] || { skip "$2 (no --wheels)"; return; }
  local status=0
  UCX_TLS=$4 UCX_POSIX_ERROR_HANDLING=y UCX_LOG_LEVEL=error timeout 60 "$wheels" \
    tests/transport/peers/wheels.py "$2" "$3" >"$folder/client" 2>"$folder/errors" || status=$?
  [ $status = 0 ] || skip "$2 by $1: exit $status, $(tail -1 "$folder/errors")"
  keep "$1" "$2" <"$folder/client"
}

gloo() { # SIZE
  [ $has_gloo = 1 ] || return 0
  local meet
  meet=$(mktemp -d "$folder/meet-XXXXXX")
  timeout 60 "$folder/gloo" "$meet" 1 "$1" >/dev/null 2>&1 &
  timeout 60 "$folder/gloo" "$meet" 0 "$1" >"$folder/client" 2>"$folder/errors" || skip "gloo: $(tail -1 "$folder/errors")"
  wait $! || true
  sed "/half_trip/{$([ "$1" = "${size_list[0]}" ] && echo b || echo d)}" "$folder/client" | keep tcp gloo
}
mpi() { # LINK SIZE OPTIONS...
  [ $has_mpi = 1 ] || return 0
  local link=$1 size=$2
  shift 2
  timeout 60 mpirun --allow-run-as-root --oversubscribe -np 2 --mca pml ob1 "$@" "$folder/mpi" "$size" \
    >"$folder/client" 2>"$folder/errors" || skip "Open MPI by $link: $(head -1 "$folder/errors")"
  sed "/half_trip/{$([ "$size" = "${size_list[0]}" ] && echo b || echo d)}" "$folder/client" | keep "$link" "Open MPI"
}

for ((round = 1; round <= rounds; ++round)); do
  for size in "${size_list[@]}"; do
    echo "round $round of $rounds: $size bytes" >&2
    ours tcp "$size"
    raw_ucx tcp "$size"
    iperf "$size"
    wheel tcp nixl "$size" tcp
    wheel tcp mooncake "$size" tcp
    gloo "$size"
    mpi tcp "$size" --mca btl tcp,self --mca osc pt2pt
    ours shm "$size"
    raw_ucx shm "$size"
    wheel shm nixl "$size" posix,cma,tcp
    mpi shm "$size" --mca btl vader,self
  done
done
python3 tests/transport/peers/table.py "$figures"
