#!/usr/bin/env bash
# An aarch64 Python with the locked packages, to run emulated, in a folder of 7 GB. Nothing is installed.
#   bash tests/exact/arm64.sh FOLDER && ARM64_PYTHON=FOLDER/python python -m tests.exact.processors
# Needs Debian 12 with the packages qemu-user-static and unzip, and Python 3.11, as the emulated one; downloads 2.5 GB.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
here=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-$project/.venv/bin/python}
export TMPDIR=$here  # pip unpacks gigabytes

# 1. Debian's packages for arm64, unpacked, from the sources that this machine uses.
mkdir -p "$here"/apt/{state/lists,cache/archives}/partial "$here/root" "$here/wheels" "$here/packages"
touch "$here/apt/status"
apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=false \
    -o APT::Sandbox::User=root -o Dir::State="$here/apt/state" -o Dir::State::status="$here/apt/status" \
    -o Dir::Cache="$here/apt/cache" "$@"
}
apt update
apt install -y --download-only python3.11 libstdc++6 libgomp1 libatomic1 >/dev/null
for package in "$here"/apt/cache/archives/*.deb; do dpkg -x "$package" "$here/root"; done

# 2. What PyTorch reads about the processor. It crashes where that is an x86-64 one, as QEMU's user mode would show it.
mkdir -p "$here/root/proc"
for number in $(seq 0 $(($(nproc --all) - 1))); do
  printf '%s\n' "processor : $number" "Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid \
asimdrdm lrcpc dcpop asimddp ssbs" "CPU implementer : 0x41" "CPU architecture: 8" "CPU variant : 0x3" \
    "CPU part : 0xd0c" "CPU revision : 1" ""
  registers=$here/root/sys/devices/system/cpu/cpu$number/regs/identification
  mkdir -p "$registers" && echo 0x00000000413fd0c1 >"$registers/midr_el1"
done >"$here/root/proc/cpuinfo"

# 3. The locked packages' wheels for aarch64. antlr4 has none; it is the same for all processors.
grep -hvE '^(#|antlr4)' "$project/requirements.lock" >"$here/lock"
grep -E '^(numba|llvmlite)==' "$project/requirements-extras.lock" >>"$here/lock"
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 -d "$here/wheels" -r "$here/lock" \
  $(for tag in 2_17 2_18 2_24 2_25 2_26 2_27 2_28; do echo --platform "manylinux_${tag}_aarch64"; done) \
  --platform manylinux2014_aarch64
for wheel in "$here"/wheels/*.whl; do unzip -qo "$wheel" -d "$here/packages"; done
rm -r "$here/wheels"
"$python" -m pip install -q --no-deps --target "$here/packages" "$(grep -h '^antlr4' "$project/requirements.lock")"
"$python" -m compileall -qq "$here/packages" "$here/root/usr/lib/python3.11" || true  # bytecode is the same, too

# 4. The command. What PYTHONPATH already has comes first.
cat >"$here/python" <<'R'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$here/packages" QEMU_CPU="${QEMU_CPU:-neoverse-n1}"
exec qemu-aarch64-static -L "$here/root" "$here/root/usr/bin/python3.11" "$@"
R
chmod +x "$here/python"
