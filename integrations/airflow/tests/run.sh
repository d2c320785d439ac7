#!/usr/bin/env bash
# The tests on a real Airflow, which is installed beside the other things that tests run against: some minutes and 300 MB.
# INGEST_TEST_AIRFLOW=full also loads a table of six million rows whose slices are killed, which takes a quarter of an hour;
# INGEST_TEST_AIRFLOW=table does that alone. INGEST_PROGRAM names the program; left out, the workspace's debug build.
set -euo pipefail
cd "$(dirname "$0")/.."
version=3.3.2
test_home=${INGEST_TEST_HOME:-$HOME/.cache/ingest-test}
home=$test_home/airflow-$version
if [ ! -x "$home/bin/airflow" ]; then
  python3 -m venv "$home"
  "$home/bin/pip" install --quiet --disable-pip-version-check "apache-airflow==$version"
fi
"$home/bin/pip" install --quiet --disable-pip-version-check --no-deps .
rm -rf build src/*.egg-info
program=${INGEST_PROGRAM:-$(cd ../.. && cargo build --quiet -p ingest-runner --bin ingest && echo "${CARGO_TARGET_DIR:-$PWD/target}/debug/ingest")}
export INGEST_PROGRAM=$program READER=${READER:-$test_home/venv/bin/python} PYTHONDONTWRITEBYTECODE=1
what=${INGEST_TEST_AIRFLOW:-1}
if [ "$what" != table ]; then "$home/bin/python" tests/airflow_test.py "$@"; fi
if [ "$what" != 1 ]; then "$home/bin/python" tests/table_test.py; fi
