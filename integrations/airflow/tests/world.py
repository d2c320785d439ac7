"""A project to load, and an Airflow of its own around it.

INGEST_PROGRAM names the program, READER a Python with deltalake and DuckDB.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = os.environ["INGEST_PROGRAM"]
READER = os.environ["READER"]
BIN = Path(sys.executable).parent
# By hand: one run at a time is easier to watch.
EXAMPLE = (HERE.parent / "examples/ingest_orders.py").read_text(encoding="utf-8").replace('"@hourly"', "None")


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class World:
    """An Airflow of its own. What it loads is filled in by those that are made of it."""

    #: DAGs by the name of their file.
    dags = {}

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ingest-airflow-"))
        self.project = self.folder / "project"
        self.project.mkdir()
        self.fill()
        dags = self.folder / "dags"
        dags.mkdir()
        for name, text in self.dags.items():
            (dags / name).write_text(text, encoding="utf-8")
        killing = self.folder / "killing-ingest"
        killing.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE}/killing.py" "{PROGRAM}" "$@"\n', encoding="utf-8")
        killing.chmod(0o755)
        api = port()
        self.api = f"http://127.0.0.1:{api}"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "INGEST_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.api}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": self.api,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(port()),
            "AIRFLOW__TRIGGERER__DEFAULT_CAPACITY": "10",
            "INGEST_PROJECT": str(self.project),
            "INGEST_PROGRAM": str(killing),
            "INGEST_REAL_PROGRAM": PROGRAM,
            "INGEST_RETRY_SECONDS": "1",
            "KILL_LOG": str(self.folder / "kills"),
            "KILL_SECONDS": os.environ.get("KILL_SECONDS", "2"),
            **self.connections(),
        }
        self.airflow("db", "migrate")

    def fill(self):
        """Writes the project: its data and its `ingest.yaml`."""
        raise NotImplementedError

    def connections(self):
        """Airflow's connections, as variables of its environment."""
        return {}

    def airflow(self, *words, check=True):
        done = subprocess.run(
            [BIN / "airflow", *words], env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )
        if check and done.returncode != 0:
            raise AssertionError(f"airflow {words} ended with {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done.stdout + done.stderr

    def kills(self):
        path = Path(self.environment["KILL_LOG"])
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    # The REST API of a standalone Airflow.

    def standalone(self):
        self.log = open(self.folder / "standalone.log", "w", encoding="utf-8")
        self.server = subprocess.Popen(
            [BIN / "airflow", "standalone"], env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.wait(lambda: self.call("GET", "/api/v2/monitor/health")["scheduler"]["status"] == "healthy", 240)
        self.token = self.call("GET", "/auth/token")["access_token"]

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.api + path, method=method)
        request.add_header("Content-Type", "application/json")
        if getattr(self, "token", None):
            request.add_header("Authorization", f"Bearer {self.token}")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=30) as answer:
            return json.load(answer)

    def wait(self, reached, seconds):
        until, last = time.monotonic() + seconds, None
        while time.monotonic() < until:
            try:
                if reached():
                    return
            except OSError as error:
                last = error
            time.sleep(1)
        raise AssertionError(f"not reached in {seconds} s; {last}; see {self.folder}")

    def start(self, dag):
        self.wait(lambda: self.call("GET", f"/api/v2/dags/{dag}"), 120)
        self.call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})
        return self.call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]

    def state(self, dag, run):
        return self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"]

    def tasks(self, dag, run):
        return self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]

    def ended(self, dag, run, seconds=420):
        self.wait(lambda: self.state(dag, run) in ("success", "failed"), seconds)
        return self.state(dag, run)

    def xcom(self, dag, run, task, key="return_value", index=-1):
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}?map_index={index}&deserialize=true"
        return self.call("GET", path)["value"]

    def last_words(self):
        logs = sorted((self.folder / "airflow/logs").rglob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"{path}\n{path.read_text(errors='replace')[-3000:]}" for path in logs[-6:])

    def close(self):
        if getattr(self, "server", None):
            os.killpg(self.server.pid, signal.SIGTERM)
            try:
                self.server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.server.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
