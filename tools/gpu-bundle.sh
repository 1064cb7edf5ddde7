#!/usr/bin/env bash
# Puts everything that runs on a GPU into one folder, for a machine that has a driver and nothing else:
# programs, the libraries that they need (nothing of the driver), and run.sh, which runs them all.
#   tools/gpu-bundle.sh [--build FOLDER] [--no-build] [--out FOLDER]
# --build names a build folder (build/release, which is configured and built if need be); --out the
# folder to make (gpu-bundle), which must not exist. tests/gpu/README.md says what it measures.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { echo "gpu-bundle: $*" >&2; exit 1; }

build=$PWD/build/release
out=$caller/gpu-bundle
compile=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --build|--out)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      path=$2
      [[ "$path" = /* ]] || path=$caller/$path
      if [ "$1" = --build ]; then build=$path; else out=$path; fi
      shift 2 ;;
    --no-build) compile=no; shift ;;
    --help|-h) usage; exit 0 ;;
    *) echo "gpu-bundle: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
[ ! -e "$out" ] || fail "$out exists: remove it, or name another folder with --out"

programs=(tests/gpu/gpu_report tests/gpu/gpu_bench tests/cuda_conformance/cuda_conformance
          tests/allocator/cuda_backend_test tools/causeway tools/causewayd
          examples/train_gpt/train_gpt)
if [ "$compile" = yes ]; then
  [ -f "$build/build.ninja" ] || cmake --preset release -B "$build" >/dev/null
  cmake --build "$build" --target "${programs[@]##*/}"
fi

most_mib=60
folder=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" "$folder/lib" "$folder/lib/c++"
for program in "${programs[@]}"; do
  [ -x "$build/$program" ] || fail "$build/$program is not built (leave out --no-build)"
  strip --strip-all -o "$folder/bin/${program##*/}" "$build/$program"
done

# What the loader finds for them, but for the C library, which comes with the machine's kernel, and
# whatever is the driver's: that must be the machine's own. Of the C++ library the machine may have a
# good one that fits its C library better, so it lies apart: run.sh chooses.
ldd "$folder"/bin/* | grep -F 'not found' && fail "libraries are missing here already"
ldd "$folder"/bin/* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u | while read -r library; do
  case "${library##*/}" in
    ld-linux*|libc.so.*|libm.so.*|libdl.so.*|librt.so.*|libpthread.so.*|libresolv.so.*) ;;
    libcuda.so*|libnvidia-*|libnvcuvid*) fail "$library is the driver's: who links it?" ;;
    libstdc++.so.*) strip --strip-unneeded -o "$folder/lib/c++/${library##*/}" "$(readlink -f "$library")" ;;
    *) strip --strip-unneeded -o "$folder/lib/${library##*/}" "$(readlink -f "$library")" ;;
  esac
done

# NCCL if this machine has it and there is room: all of it seldom fits.
nccl=$(ldconfig -p | awk '$1 == "libnccl.so.2" {print $NF; exit}')
if [ -z "$nccl" ]; then
  note="the machine that made this folder has no libnccl.so.2"
else
  strip --strip-unneeded -o "$folder/lib/libnccl.so.2" "$(readlink -f "$nccl")"
  packed_mib=$(( $(gzip -9 < "$folder/lib/libnccl.so.2" | wc -c) / 1048576 + 1 ))
  left_mib=$(( most_mib - $(du -sm --apparent-size "$folder" | cut -f1) +
               $(du -m --apparent-size "$folder/lib/libnccl.so.2" | cut -f1) - packed_mib ))
  if [ "$left_mib" -ge 2 ]; then
    note="libnccl.so.2 of the machine that made this folder is in it"
  else
    rm "$folder/lib/libnccl.so.2"
    note="libnccl.so.2 would be $packed_mib MiB of this folder, which is too much: left out"
  fi
fi
echo "$note" > "$folder/bin/nccl.txt"

# The newest C library that each file asks for: 2.35 is Ubuntu 22.04's.
for file in "$folder"/bin/* "$folder"/lib/*.so* "$folder"/lib/c++/*; do
  [ "${file##*.}" != txt ] || continue
  allowed=2.35
  [ "${file%/*}" != "$folder/lib/c++" ] || allowed=2.36
  wanted=$(objdump -T "$file" | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -1)
  newest=$(printf '%s\n' "${wanted#GLIBC_}" "$allowed" | sort -V | tail -1)
  [ "$newest" = "$allowed" ] || fail "${file##*/} needs glibc $newest, and $allowed is what is promised"
done

# The largest, which holds the code of every processor, travels packed: run.sh unpacks it.
find "$folder/lib" -size +16M -exec gzip -9 {} +

cp tests/gpu/run.sh tests/gpu/README.md "$folder/"
printf 'commit %s%s, %s, %s\n' "$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)" \
  "$(git diff --quiet HEAD 2>/dev/null || echo ' with changes')" \
  "$(ldd --version | head -1)" "$(date -u +%Y-%m-%d)" > "$folder/bin/made-of.txt"

mib=$(( $(du -s --apparent-size --block-size=1 "$folder" | cut -f1) / 1048576 + 1 ))
[ "$mib" -le "$most_mib" ] || fail "$mib MiB are more than $most_mib"
chmod 755 "$folder"
mv "$folder" "$out"
trap - EXIT
echo "$out: $mib MiB; copy it to the machine with the GPU and run ./run.sh there"
