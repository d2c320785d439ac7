#!/usr/bin/env bash
# The examples of examples/orchestration on the real engines, each in a Python of its own beside the other things that tests run
# against: `run.sh ray dagster kubernetes`, or some of them. INGEST_PROGRAM names the program; left out, the workspace's debug build.
set -euo pipefail
cd "$(dirname "$0")"
test_home=${INGEST_TEST_HOME:-$HOME/.cache/ingest-test}

# A Python with one package: 380 MB for Ray, 230 for Dagster.
environment() {
  local home=$test_home/$1-$2
  if [ ! -e "$home/complete" ]; then
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check "${@:3}"
    touch "$home/complete"
  fi
  echo "$home"
}

export INGEST_PROGRAM=${INGEST_PROGRAM:-$(cd ../.. && cargo build --quiet -p ingest-runner --bin ingest && echo "${CARGO_TARGET_DIR:-$PWD/target}/debug/ingest")}
export READER=${READER:-$test_home/venv/bin/python} PYTHONDONTWRITEBYTECODE=1
for engine in ${*:-ray dagster kubernetes}; do
  printf '\n-- %s\n' "$engine"
  case $engine in
    ray)
      RAY=$(environment ray 2.60.0 ray==2.60.0)
      export RAY
      "$READER" ray_test.py
      ;;
    dagster) "$(environment dagster 1.13.27 dagster==1.13.27)/bin/python" dagster_test.py ;;
    kubernetes) "$(environment kubernetes-validate 1.37.0 kubernetes-validate==1.37.0)/bin/python" kubernetes_test.py ;;
    *) echo "run.sh: no test of $engine" >&2 && exit 2 ;;
  esac
done
