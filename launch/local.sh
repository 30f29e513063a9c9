#!/usr/bin/env bash
# Runs any verb of dss on this machine: launch/local.sh [--devices=N] [--processes=N] VERB [arguments]
#
#   launch/local.sh train --gin_file=models/t5_1_1/tiny.gin --gin_file=datasets/embedded.gin \
#     --model_dir=runs/a
#   launch/local.sh --devices=8 train ...     the same on 8 fake CPU devices
#   launch/local.sh --processes=2 --devices=4 train ...     on 2 processes of 4 each
#
# It is `dss launch local --submit` with the Python of .venv (`make install`), else with python3 of
# the path. JAX takes a GPU where its GPU build is installed (extra `gpu`), else the CPU.
set -euo pipefail

case "${1:-}" in
  '' | -h | --help)
    sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "$0"
    exit 0
    ;;
esac

where=()
while [[ ${1:-} == --* ]]; do
  where+=("$1")
  shift
done
python="$(dirname "$0")/../.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" -m dss_jax launch local --submit "${where[@]}" -- "$@"
