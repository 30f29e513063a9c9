# What every host of a Cloud TPU job runs when it starts, as root, and again when it starts anew.
#
# Owns three things: installing the job's wheel, starting dss_jax.launch.host, and deleting the
# resource when the job is over or could not be set up. The command itself and the values of
# environment variables are in the job's folder, never in this text.
set -euo pipefail

work=${DSS_WORK:-/var/lib/dss}
metadata=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance
export HOME=${HOME:-/root}
mkdir -p "$work/package"
cd "$work"
exec >>"$work/setup.log" 2>&1
echo "$(date -u +%FT%TZ) starting"
host=unknown

copy() { # FROM TO, either of which may be in a bucket
  case "$1$2" in
    *gs://*) gcloud storage cp "$1" "$2" ;;
    *) mkdir -p "$(dirname "$2")" && cp "$1" "$2" ;;
  esac
}

forget_environment() { # the values of variables
  case "$DSS_FOLDER" in
    gs://*) gcloud storage rm --quiet "$DSS_FOLDER/env.json" ;;
    *) rm -f "$DSS_FOLDER/env.json" ;;
  esac
}

delete_resource() {
  echo "deleting $DSS_QUEUED_RESOURCE"
  gcloud compute tpus queued-resources delete "$DSS_QUEUED_RESOURCE" --project="$DSS_PROJECT" \
    --zone="$DSS_ZONE" --force --async --quiet
}

finish() { # 0: the job is over; 75: this host is terminated and the job is not over
  code=$?
  trap - EXIT
  echo "ending with $code"
  if [ "$code" != 0 ] && [ "$code" != 75 ]; then
    forget_environment || true # it may have none
    printf '{"state": "failed", "exit_code": 1, "message": "host %s: set-up ended with %s"}\n' \
      "$host" "$code" >result.json
    copy setup.log "$DSS_FOLDER/logs/$(date -u +%Y%m%dT%H%M%S)-host-$host-setup.log" || true
    again copy result.json "$DSS_FOLDER/result.json" || true
    again delete_resource || true
  elif [ "$code" = 0 ] && [ "$host" = 0 ]; then
    again delete_resource || true
  fi
  exit "$code"
}
trap finish EXIT
trap 'exit 75' TERM INT

find_python() { # the name of a Python that is new enough
  for name in python3.11 python3.12 python3.13 python3; do
    if command -v "$name" >/dev/null &&
      "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
}

install() {
  python=$(find_python)
  if [ -n "$python" ]; then
    "$python" -m venv "$work/venv"
  else
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.11 "$work/venv"
  fi
  if [ -e package/constraints.txt ]; then
    set -- --constraint package/constraints.txt
  fi
  wheel=$(ls package/dss_jax-*.whl)
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" \
    "$work/$wheel$DSS_EXTRA" || return
  case "$DSS_EXTRA" in
    *t5x*) "$work/venv/bin/python" -m dss_jax.launch.t5x_source --quiet ;;
  esac
}

again() { # COMMAND..., several times: a network may fail for minutes, and a job must not end by it
  for pause in ${DSS_PAUSES-1 5 15 30 60 120}; do
    if "$@"; then return; fi
    sleep "$pause"
  done
  "$@"
}

ask_number() { host=$(curl -sf -H 'Metadata-Flavor: Google' "$metadata/attributes/agent-worker-number"); }
fetch_package() {
  case "$DSS_FOLDER" in
    gs://*) gcloud storage cp "$DSS_FOLDER/package/*" package/ ;;
    *) cp "$DSS_FOLDER"/package/* package/ ;;
  esac
}

again ask_number
if ! [ -e installed ]; then
  again fetch_package
  again install
  touch installed
fi
echo "$(date -u +%FT%TZ) installed"

# In the background, so that this shell gets a TERM at once and passes it on; a wait that a signal
# interrupts is repeated.
"$work/venv/bin/python" -m dss_jax.launch.host "$DSS_FOLDER" "$host" "$work/job" &
agent=$!
trap 'signalled=1; kill -TERM "$agent" 2>/dev/null || true' TERM INT
while :; do
  signalled='' code=0
  wait "$agent" || code=$?
  [ -n "$signalled" ] || break
done
[ "$code" != 127 ] || code=75 # it had ended when the signal came
exit "$code"
