# Sourced by the scripts of this folder: strict mode, messages, timed stages, apt, the build. Leaves the caller in the
# repository's root with its path in $root.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# stage NAME TEXT: announces a stage. stage_done, stage_skipped WHY: how it ended, and how long it took. When a command
# inside a stage fails, the stage is named at exit.
current_stage=""
stage_number=0
stage() {
  current_stage=$1
  stage_number=$((stage_number + 1))
  stage_started=$SECONDS
  printf '\n==> %d. %s: %s\n' "$stage_number" "$1" "$2"
}
stage_done() {
  printf '    %s: done, %d s\n' "$current_stage" $((SECONDS - stage_started))
  current_stage=""
}
stage_skipped() {
  printf '    %s: %s, nothing to do\n' "$current_stage" "$1"
  current_stage=""
}
on_exit() {
  local status=$?
  if [ "$status" -ne 0 ] && [ -n "$current_stage" ]; then
    printf '%s: failed in the stage "%s" (exit status %d)\n' "${0##*/}" "$current_stage" "$status" >&2
  fi
}
trap on_exit EXIT

# fresh OUTPUT INPUT...: is OUTPUT there and newer than every INPUT?
fresh() {
  local output=$1 input
  shift
  [ -e "$output" ] || return 1
  for input in "$@"; do
    if [ "$input" -nt "$output" ]; then return 1; fi
  done
}

# quietly LOG COMMAND...: runs it with its output in LOG; when it fails, shows the end of LOG.
quietly() {
  local log=$1 status=0
  shift
  mkdir -p "$(dirname "$log")"
  ("$@") >"$log" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 40 "$log" >&2
    die "'$*' failed (exit status $status); the whole output is in $log"
  fi
}

# as_root COMMAND...: as it is for root, else through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root for: $* (no sudo here: run scripts/setup as root once)"
  fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
    -o Acquire::Retries=3 "$@"
}

# build PRESET [TARGET...]: configures and builds; compiles through ccache where that is installed.
build() {
  local preset=$1 targets=()
  shift
  if [ $# -gt 0 ]; then targets=(--target "$@"); fi
  if command -v ccache >/dev/null; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR=$root
  fi
  quietly "build/$preset-configure.log" cmake --preset "$preset"
  quietly "build/$preset-build.log" cmake --build --preset "$preset" "${targets[@]}"
}
