#!/usr/bin/env bash
# Installs what is needed, builds, and runs every test.
#   tools/test.sh [--preset dev|release|asan|tsan] [--all] [-- CTEST_ARGUMENTS...]
# --all runs dev, asan and tsan in turn. Without an argument: dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

presets=(dev)
while [ $# -gt 0 ]; do
  case "$1" in
    --preset)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      presets=("$2"); shift 2 ;;
    --all) presets=(dev asan tsan); shift ;;
    --help|-h) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "test.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

tools/install-deps.sh --quiet
for preset in "${presets[@]}"; do
  echo "== $preset: configure"
  cmake --preset "$preset" >/dev/null
  echo "== $preset: build"
  cmake --build --preset "$preset"
  echo "== $preset: test"
  # Timing tests want the cores for themselves, so one test at a time.
  ctest --preset "$preset" "$@"
done
