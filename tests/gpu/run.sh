#!/bin/sh
# Runs every GPU test and benchmark of this folder on the machine's first GPU, in under 8 minutes, and
# writes one JSON of results. Needs NVIDIA's driver and nothing else.
#   ./run.sh [--out gpu-results.json] [--quick] [--only PART,PART] [--total-s N] [--part-s N]
# Exit code: 0 every part passed or what it needs is not here; 1 a part failed; 2 usage.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
for packed in "$here"/lib/*.gz; do
  library=${packed%.gz}
  [ ! -e "$packed" ] || [ -e "$library" ] ||
    { gzip -dc "$packed" > "$library.part" && mv "$library.part" "$library"; } ||
    echo "run.sh: cannot unpack $packed; what needs it will fail" >&2
done
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# A driver that a container is given is not always where the loader looks.
for folder in /usr/local/nvidia/lib64 /usr/lib64-nvidia /usr/lib/wsl/lib; do
  [ -e "$folder/libcuda.so.1" ] && LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$folder"
done
CAUSEWAY_CUDA_LIBRARY=${CAUSEWAY_CUDA_LIBRARY:-libcuda.so.1}
# One card, and the same one for the driver, NCCL and nvidia-smi.
CUDA_DEVICE_ORDER=PCI_BUS_ID
CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export LD_LIBRARY_PATH CAUSEWAY_CUDA_LIBRARY CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES
# The C++ library of this folder wants glibc 2.36. An older machine has its own, of GCC 12 or newer.
starts() { "$here/bin/gpu_report" --help > /dev/null 2>&1; }
machines=$LD_LIBRARY_PATH
LD_LIBRARY_PATH="$here/lib/c++:$machines"
starts || LD_LIBRARY_PATH=$machines
starts || {
  echo "run.sh: $here/bin/gpu_report cannot start here: it needs x86-64, and glibc 2.36 or newer, or" \
    "2.35 and a libstdc++.so.6 of GCC 12 (Ubuntu 22.04)" >&2
  "$here/bin/gpu_report" --help > /dev/null
  exit 1
}
exec "$here/bin/gpu_report" "$@"
