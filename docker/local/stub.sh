#!/bin/bash
# stub.sh CUDA_HOME: link-time stand-ins for libraries that the driver or torch bring when the image runs.
#
# They must export the names that the headers declare: the linker drops a library from which nothing is used, and an
# op linked against an empty one then fails to import with "undefined symbol".
set -euo pipefail
include=$1/include lib=$1/lib
mkdir -p "$lib/stubs"

# stub SONAME FILE PREFIX HEADER...: every function whose name starts with PREFIX, also under its versioned name
stub() {
  local soname=$1 file=$2 prefix=$3
  shift 3
  {
    sed -E 's@//.*@@' "$@" | grep -oE "\b${prefix}[A-Za-z0-9_]*[[:space:]]*\(" | tr -d '( \t'
    grep -hE '^#define' "$@" | grep -oE "\b${prefix}[A-Za-z0-9_]+(_v[0-9]+|_64)?$" || true
  } | sort -u | sed 's/.*/void &(void) {}/' | gcc -w -fno-builtin -shared -fPIC -Wl,-soname,"$soname" -x c -o "$file" -
}

stub libcuda.so.1 "$lib/stubs/libcuda.so" 'cu[A-Z]' "$include/cuda.h"
stub libcurand.so.10 "$lib/libcurand.so" 'curand[A-Z]' "$include/curand.h"
stub libcublas.so.13 "$lib/libcublas.so" 'cublas[A-Z]' "$include/cublas_v2.h" "$include/cublas_api.h"
stub libcusparse.so.12 "$lib/libcusparse.so" 'cusparse[A-Z]' "$include/cusparse.h"
stub libcusolver.so.12 "$lib/libcusolver.so" 'cusolver[A-Z]' "$include"/cusolver{Dn,Sp,_common}.h
