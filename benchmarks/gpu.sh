#!/usr/bin/env bash
# The GPU column of docs/performance.md, in the order of its worth, in under 20 minutes after the installation; what is done
# when it is cut is kept, and the same command goes on:  bash benchmarks/gpu.sh outputs/gpu
# Do the commands run at all, on a CPU and small:        bash benchmarks/gpu.sh outputs/gpu-dry --dry
set -euo pipefail
cd "$(dirname "$0")/.."
source code/environment.sh "[dev,quantize]"
exec python benchmarks/gpu.py "$@"
