#!/usr/bin/env bash
# Installs, builds, and trains a model that fits on no single device over the pooled memory of a
# desktop and an H100 node, both emulated on this machine. Takes everything down again.
#   tools/quickstart.sh [--steps N] [--keep]
# --keep leaves the pool up for a look around. CAUSEWAY_BUILD names a build to use as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

steps=50
keep=no
while [ $# -gt 0 ]; do
  case "$1" in
    --steps)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { echo "quickstart: --steps needs a number" >&2; exit 2; }
      steps=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --help|-h) usage; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { echo "quickstart: $*" >&2; exit 1; }

lab=quickstart-$$
folder=$(mktemp -d)
up=no
child=''

# Runs in the background and waits, so that a signal is acted on at once and not when it ends.
attend() {
  "$@" &
  child=$!
  local code=0
  wait "$child" || code=$?
  child=''
  return "$code"
}

clean_up() {
  local code=$?
  trap - EXIT
  trap '' INT TERM HUP  # What follows is short, and must not be cut off.
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ "$up" = yes ]; then
    if [ "$keep" = yes ] && [ "$code" -eq 0 ]; then
      say "The pool is still up"
      echo "  look   $causeway status --lab $lab"
      echo "  end    $causeway lab down $lab"
    else
      "$causeway" lab down "$lab" || true
    fi
  fi
  rm -rf "$folder"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Runs a command that must be refused for want of memory, and shows its words.
must_refuse() {
  local code=0
  attend "$@" >"$folder/out" 2>"$folder/err" || code=$?
  [ "$code" -eq 3 ] || { cat "$folder/out" "$folder/err" >&2
    fail "'$*' should have run out of memory (exit code 3) and ended with $code"; }
  sed 's/^/  /' "$folder/err"
}

build=${CAUSEWAY_BUILD:-}
if [ -z "$build" ]; then
  say "1. Install and build"
  attend tools/install-deps.sh --quiet
  build=build/release
  attend cmake --preset release -DCAUSEWAY_BUILD_TESTS=OFF >"$folder/configure" 2>&1 ||
    { cat "$folder/configure" >&2; fail "cmake could not configure the build"; }
  attend cmake --build --preset release --target causeway causewayd train_gpt
fi
causeway=$build/tools/causeway
train=$build/examples/train_gpt/train_gpt

say "2. A pool: a desktop of two cards that cannot see each other, and an H100 node that is busy"
up=yes
attend "$causeway" lab up desktop-and-hgx --name "$lab" >"$folder/out"
head -n 1 "$folder/out"
echo
"$causeway" topo show --lab "$lab"
echo
"$causeway" status --lab "$lab"

say "3. The job: a transformer whose training state fits on no device and on no island"
"$train" --describe "$folder/model.yaml"
echo "planned on one RTX 5090:"
must_refuse "$causeway" plan "$folder/model.yaml" --lab "$lab" --only desktop/gpu0
echo "planned on the whole desktop:"
must_refuse "$causeway" plan "$folder/model.yaml" --lab "$lab" --only desktop/gpu0,desktop/gpu1
echo "started on the desktop all the same:"
must_refuse "$causeway" lab run "$lab" -- \
  "$train" --steps "$steps" --only desktop/gpu0,desktop/gpu1
echo "planned over the pool:"
echo
"$causeway" plan "$folder/model.yaml" --lab "$lab" -o "$folder/plan.yaml"

say "4. Train it over the pool: one process per stage, $steps steps"
attend "$causeway" lab run "$lab" --plan "$folder/plan.yaml" -- \
  "$train" --plan "$folder/plan.yaml" --steps "$steps"

say "5. The job has ended: its memory is back"
"$causeway" status --lab "$lab" | grep '^pool'
