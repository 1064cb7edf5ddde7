#!/usr/bin/env bash
# Installs what the build, the tests or the examples need and is missing, on Debian 12.
#   tools/install-deps.sh [--quiet]
# Asks dpkg first, so a second run neither needs the network nor root.
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache
  libboost1.81-dev libboost-json1.81-dev
  libucx-dev ucx-utils
  libyaml-cpp-dev libpugixml-dev libfmt-dev libspdlog-dev libcli11-dev libssl-dev libxxhash-dev
  doctest-dev libbenchmark-dev
  libhwloc-dev pciutils
  libopenblas-pthread-dev
)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install-deps: these packages are missing and neither root nor sudo is at hand:" >&2
    echo "  ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing ${missing[*]}"
quiet=()
[ "${1:-}" != --quiet ] || quiet=(-qq -o Dpkg::Use-Pty=0)
"${as_root[@]}" apt-get "${quiet[@]}" update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get "${quiet[@]}" install -y --no-install-recommends "${missing[@]}"
