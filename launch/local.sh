#!/usr/bin/env bash
# Runs any verb of dss on this machine: launch/local.sh [--devices=N] VERB [arguments]
#
#   launch/local.sh train --gin_file=models/t5_1_1/tiny.gin --gin_file=datasets/embedded.gin \
#     --model_dir=runs/a
#   launch/local.sh --devices=8 train ...     the same on 8 fake CPU devices
#
# Uses .venv of the repository (`make install`), else the python3 on the path. JAX takes a GPU where
# its GPU build is installed (extra `gpu`), else the CPU.
set -euo pipefail

case "${1:-}" in
  '' | -h | --help)
    sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "$0"
    exit 0
    ;;
  --devices=*)
    devices=${1#--devices=}
    if ! [[ $devices =~ ^[1-9][0-9]*$ ]]; then
      echo "local.sh: --devices is a positive number of fake CPU devices, not '$devices'." >&2
      exit 2
    fi
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
    shift
    ;;
esac

python="$(dirname "$0")/../.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" -m dss_jax "$@"
