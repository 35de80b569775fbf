#!/bin/bash
# Base images without a registry of images: Debian's packages, and CUDA's compiler from PyPI. For machines that reach
# no Docker Hub, and for the project's own tests; elsewhere the Dockerfile's default bases are the ones to use.
#
#   local/base.sh cuda|cpu      prints two names: the base to build in, the base to run in
#
# Needs root, buildah, debootstrap and python3 with pip. Settings: SUITE (Debian release), TORCH_CPU_WHEELS (folder
# with torch's CPU build; default: pip's find-links), PYTHON (the interpreter that wheel is for; default: python3).
set -euo pipefail
cd "$(dirname "$0")"

flavour=${1:-}
suite=${SUITE:-trixie}
python=${PYTHON:-python3}
cuda=13.2
# A base is named after what made it, so an old one is never taken for a new one.
version=$(cat base.sh toolkit.txt stub.sh | sha256sum | cut -c1-12)
debian=localhost/debian-base:$suite-$version
scratch=$(mktemp -d)
containers=()
finish() {
  for container in "${containers[@]}"; do buildah rm "$container" >/dev/null || true; done
  rm -rf "$scratch"
}
trap finish EXIT

say() { echo "base.sh: $*" >&2; }
exists() { buildah inspect --type image "$1" >/dev/null 2>&1; }
in_container() { buildah run --isolation=chroot "$container" -- "$@" >&2; }
install() {
  in_container sh -c "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $* \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /usr/share/doc/* /usr/share/man/* /usr/share/locale/*"
}
# start IMAGE: a working container of it, in $container
start() { container=$(buildah from "$1") && containers+=("$container"); }
# --format docker, because the OCI format has no place for the SHELL that the Dockerfile sets.
commit() { buildah commit -q --format docker "$container" "$1" >/dev/null && say "made $1"; }

debian() {
  exists "$debian" && return
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$scratch/root" >&2
  # As in Debian's own images: an image is whole or not there, so no package need be on the disk before the next.
  echo force-unsafe-io > "$scratch/root/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
  rm -rf "$scratch"/root/var/cache/apt/{archives/*.deb,*.bin} "$scratch"/root/var/lib/apt/lists/* \
    "$scratch"/root/usr/share/{doc,man,locale,info}/* "$scratch"/root/var/log/*
  start scratch
  buildah add -q "$container" "$scratch/root" / >/dev/null
  # pip carries its own list of authorities and would not know one that only this machine trusts.
  local bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  if [ -f "$bundle" ]; then
    buildah add -q --chmod 644 "$container" "$bundle" /etc/ssl/host-ca.crt >/dev/null
    for name in PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE; do
      buildah config --env "$name=/etc/ssl/host-ca.crt" "$container"
    done
  fi
  buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd /bin/bash "$container"
  commit "$debian"
}

cuda_bases() {
  local run=localhost/cuda-base:$cuda-base-$version build=localhost/cuda-base:$cuda-devel-$version
  if ! exists "$run"; then
    debian && start "$debian"
    # The variables by which NVIDIA's container toolkit knows what to mount; NVIDIA's own images set the same.
    buildah config --env NVIDIA_VISIBLE_DEVICES=all --env NVIDIA_DRIVER_CAPABILITIES=compute,utility \
      --env CUDA_VERSION=$cuda.2 "$container"
    commit "$run"
  fi
  if ! exists "$build"; then
    "$python" -m pip download -q --no-deps --require-hashes --only-binary :all: -r toolkit.txt -d "$scratch/wheels" >&2
    # Of these libraries torch brings the real ones; building needs their headers and names alone (stub.sh).
    "$python" -c '
import re, sys, zipfile
names = "cublas|cublasLt|nvblas|curand|cusparse|cusolver|cusolverMg|nvrtc|nvrtc-builtins|nvJitLink"
unused = re.compile(rf"nvidia/cu13/lib/(lib({names})\..*|[^/]*\.a)")
for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(sys.argv[1], [name for name in archive.namelist() if not unused.fullmatch(name)])
' "$scratch/toolkit" "$scratch"/wheels/*.whl
    local tree=$scratch/toolkit/nvidia/cu13
    chmod +x "$tree"/bin/* "$tree"/nvvm/bin/*
    ln -s lib "$tree/lib64"
    for file in "$tree"/lib/*.so.*; do
      name=$(basename "$file") && name=${name%%.so.*}.so
      [ -e "$tree/lib/$name" ] || ln -s "$(basename "$file")" "$tree/lib/$name"
    done
    start "$run"
    install g++ make
    buildah add -q "$container" "$tree" /usr/local/cuda-$cuda >/dev/null
    buildah add -q --chmod 755 "$container" stub.sh /tmp/stub.sh >/dev/null
    in_container sh -c "ln -s cuda-$cuda /usr/local/cuda && /tmp/stub.sh /usr/local/cuda && rm /tmp/stub.sh"
    buildah config --env CUDA_HOME=/usr/local/cuda --env LIBRARY_PATH=/usr/local/cuda/lib64/stubs \
      --env PATH=/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    commit "$build"
  fi
  echo "$build $run"
}

# cpu_wheel: torch's CPU build for $python, if this machine has one
cpu_wheel() {
  local folder=${TORCH_CPU_WHEELS:-${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}}
  local tag
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  if [ -d "$folder" ]; then find "$folder" -name "torch-*+cpu-$tag-*.whl" | sort | tail -n 1; fi
}

cpu_bases() {
  local wheel kind=system
  wheel=$(cpu_wheel)
  # torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl: the version and the Python that the base is made for.
  if [ -n "$wheel" ]; then kind=$(basename "$wheel" | cut -d- -f2,3 | tr + .); fi
  local run=localhost/cpu-base:run-$kind-$version build=localhost/cpu-base:build-$kind-$version
  if ! exists "$run"; then
    debian && start "$debian"
    if [ -n "$wheel" ]; then
      # The wheel is for one Python, which need not be Debian's: the base gets this machine's own.
      local prefix short
      prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
      short=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
      install libssl3t64 libffi8 zlib1g libbz2-1.0 liblzma5 libsqlite3-0 libreadline8t64 libncursesw6 libuuid1
      tar -C "$prefix" --exclude='*/site-packages/*' --exclude="lib/$short/test" --exclude=__pycache__ --exclude='*.a' \
        -cf "$scratch/python.tar" bin/python3 "bin/$short" include lib
      buildah add -q "$container" "$scratch/python.tar" /usr/local >/dev/null
      in_container sh -c 'ldconfig && python3 -c "import bz2, ctypes, lzma, sqlite3, ssl, venv"'
    fi
    commit "$run"
  fi
  if ! exists "$build"; then
    start "$run"
    if [ -n "$wheel" ]; then
      buildah add -q "$container" "$wheel" /opt/wheels/ >/dev/null
    else
      say "no CPU build of torch here: the image will hold PyPI's build with CUDA, about 4 GB more"
    fi
    commit "$build"
  fi
  echo "$build $run"
}

case $flavour in
  cuda) cuda_bases ;;
  cpu) cpu_bases ;;
  *) say "usage: base.sh cuda|cpu" && exit 2 ;;
esac
