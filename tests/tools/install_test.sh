#!/usr/bin/env bash
# Goal: what is installed can be found, linked and run by somebody else's project.
#   install_test.sh CMAKE BUILD_FOLDER CONSUMER_FOLDER COMPILER CXX_FLAGS SANITIZERS
set -euo pipefail
cmake=$1 build=$2 consumer=$3 compiler=$4 flags=$5 sanitizers=$6

folder=$(mktemp -d /tmp/cw-install-XXXXXX)
trap 'rm -rf "$folder"' EXIT
"$cmake" --install "$build" --prefix "$folder/prefix" >"$folder/install.log" ||
  { cat "$folder/install.log"; exit 1; }

[ -z "$sanitizers" ] || flags="$flags -fsanitize=$sanitizers"
"$cmake" -S "$consumer" -B "$folder/build" -DCMAKE_PREFIX_PATH="$folder/prefix" \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="$flags" >"$folder/configure.log" 2>&1 ||
  { cat "$folder/configure.log"; exit 1; }
"$cmake" --build "$folder/build" >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }

out=$("$folder/build/consumer") || { echo "the consumer ended with $?"; exit 1; }
[ "$out" = "desktop/gpu0 local 3 islands" ] || { echo "consumer printed: $out"; exit 1; }

# Only the two headers of the lower floors that the public ones include.
lower=$(cd "$folder"/prefix/include/causeway-*/ && find . -name '*.h' ! -path './causeway/*' | sort)
[ "$lower" = "$(printf './allocator/device_name.h\n./allocator/error.h')" ] ||
  { echo "unexpected headers: $lower"; exit 1; }

# The installed programs find each other.
export XDG_RUNTIME_DIR="$folder"
"$folder/prefix/bin/causeway" lab up desktop
"$folder/prefix/bin/causeway" status --lab desktop
"$folder/prefix/bin/causeway" lab down desktop
