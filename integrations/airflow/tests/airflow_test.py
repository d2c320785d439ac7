"""The DAG of the example on a real Airflow: `dags test`, then by its scheduler, with slices that are killed and tried again.

Run by run.sh in a Python that has Airflow; INGEST_PROGRAM names the program, READER a Python with deltalake.
"""

import json
import os
import random
import socket
import subprocess
import unittest
from pathlib import Path

from world import EXAMPLE, PROGRAM, READER, World

FILES = int(os.environ.get("INGEST_TEST_FILES", "48"))
# A slice of files is a megabyte at least: this makes eight of them.
ROWS = int(os.environ.get("INGEST_TEST_ROWS", "20000"))

DAGS = {
    "ingest_orders.py": EXAMPLE,
    "more.py": '''
import os
from datetime import datetime, timedelta
from airflow.sdk import DAG
from ingest_airflow import IngestFinishOperator, IngestPlanOperator, IngestRunOperator

COMMON = dict(cwd=os.environ["INGEST_PROJECT"], program=os.environ["INGEST_REAL_PROGRAM"])

with DAG(dag_id="permanent", schedule=None, start_date=datetime(2024, 1, 1), default_args={"retries": 5}):
    IngestRunOperator(task_id="run", source="nothing_of_that_name", **COMMON)

with DAG(dag_id="waits", schedule=None, start_date=datetime(2024, 1, 1)):
    plan = IngestPlanOperator(task_id="plan", source="waiting", slices=2, plan_path=os.environ["INGEST_PROJECT"] + "/waits.json", **COMMON)
    plan >> IngestFinishOperator(task_id="finish", plan=os.environ["INGEST_PROJECT"] + "/waits.json", wait=timedelta(minutes=5), poll=timedelta(seconds=2), **COMMON)

with DAG(dag_id="secret", schedule=None, start_date=datetime(2024, 1, 1)):
    IngestRunOperator(task_id="run", source="secret", secrets={"SHOP_PATH": "conn:shop_conn.extra.path", "OTHER": "conn:shop_conn.password"}, **COMMON)

with DAG(dag_id="hangs", schedule=None, start_date=datetime(2024, 1, 1)):
    IngestRunOperator(task_id="run", source="hangs", conn_id="shop_conn", **COMMON)

with DAG(dag_id="times_out", schedule=None, start_date=datetime(2024, 1, 1)):
    IngestRunOperator(task_id="run", source="hangs", execution_timeout=timedelta(seconds=4), **COMMON)
''',
}


class Shop(World):
    """Files to load, and sources that wait, fail and hang."""

    dags = DAGS

    def fill(self):
        self.silent = socket.create_server(("127.0.0.1", 0))
        orders = self.project / "data/orders"
        orders.mkdir(parents=True)
        for number in range(FILES):
            self.more(number)
        (self.project / "data/waiting").mkdir()
        for number in range(2):
            (self.project / f"data/waiting/{number}.csv").write_text(f"id\n{number}\n", encoding="utf-8")
        (self.project / "ingest.yaml").write_text(
            "sources:\n"
            '  shop: {connector: files, path: ./data, files: {orders: {path: "orders/*.csv", format: csv}}}\n'
            '  waiting: {connector: files, path: ./data, files: {two: {path: "waiting/*.csv", format: csv}}}\n'
            '  secret: {connector: files, path: "${SHOP_PATH}", files: {orders: {path: "waiting/*.csv", format: csv}}}\n'
            f"  hangs: {{connector: postgres, host: 127.0.0.1, port: {self.silent.getsockname()[1]}, database: d, user: u, password: p}}\n",
            encoding="utf-8",
        )

    def connections(self):
        shop = {"conn_type": "generic", "password": "clear-canary", "extra": {"path": "./data"}}
        return {"AIRFLOW_CONN_SHOP_CONN": json.dumps(shop)}

    def more(self, number):
        lines = [f"{number * ROWS + row},{(number * ROWS + row) * 7 % 1009}\n" for row in range(ROWS)]
        (self.project / f"data/orders/{number:04}.csv").write_text("id,total\n" + "".join(lines), encoding="utf-8")

    def rows(self, table="shop/orders"):
        text = "import deltalake, json, sys; t = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table(); print(json.dumps(sorted(map(list, zip(*(t.column(c).to_pylist() for c in sys.argv[2:]))))), flush=True); import os; os._exit(0)"
        columns = ["id", "total"] if table == "shop/orders" else ["id"]
        done = subprocess.run(
            [READER, "-c", text, self.project / "lake/bronze" / table, *columns], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    def truth(self, files):
        return [[row, row * 7 % 1009] for row in range(files * ROWS)]


def running(word):
    """Processes of the program whose arguments hold this word."""
    found = subprocess.run(["pgrep", "-f", f"^{PROGRAM} .*{word}"], capture_output=True, text=True, check=False)
    return found.stdout.split()


class OnAirflow(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = Shop()
        cls.addClassCleanup(cls.world.close)

    def test_1_dags_test_loads_the_table(self):
        world = self.world
        world.environment["KILL_ATTEMPTS"] = "0"
        said = world.airflow("dags", "test", "ingest_orders")
        del world.environment["KILL_ATTEMPTS"]
        self.assertIn("finish_shop", said)
        self.assertEqual(world.rows(), world.truth(FILES))

    def test_2_a_scheduled_run_whose_slices_are_killed_equals_the_source(self):
        world = self.world
        for number in range(FILES, 2 * FILES):
            world.more(number)
        world.standalone()
        run = world.start("ingest_orders")
        self.assertEqual(world.ended("ingest_orders", run), "success", world.last_words())
        self.assertEqual(world.rows(), world.truth(2 * FILES))
        self.assertGreater(len(world.kills()), 0, "nothing was killed")
        tries = [task["try_number"] for task in world.tasks("ingest_orders", run) if task["task_id"] == "slice_shop"]
        self.assertGreater(len(tries), 4, tries)
        self.assertGreater(max(tries), 1, tries)
        summary = world.xcom("ingest_orders", run, "finish_shop")
        self.assertEqual((summary["outcome"], summary["rows_written"]), ("succeeded", FILES * ROWS))
        print(f"\nslices {len(tries)}, kills {len(world.kills())}, tries {sorted(tries)}", flush=True)

    def test_3_what_another_attempt_would_not_change_is_not_tried_again(self):
        run = self.world.start("permanent")
        self.assertEqual(self.world.ended("permanent", run, 120), "failed")
        self.assertEqual([task["try_number"] for task in self.world.tasks("permanent", run)], [1])

    def test_4_waiting_for_slices_from_elsewhere_takes_no_worker(self):
        world = self.world
        run = world.start("waits")
        deferred = lambda: any(t["task_id"] == "finish" and t["state"] == "deferred" for t in world.tasks("waits", run))
        world.wait(deferred, 180)
        for part in range(2):
            subprocess.run([PROGRAM, "run", "--plan", "waits.json", "--slice", str(part)], cwd=world.project, check=True)
        self.assertEqual(world.ended("waits", run, 180), "success")
        self.assertEqual(world.rows("waiting/two"), [[0], [1]])

    def test_5_secrets_come_from_connections_and_are_no_arguments(self):
        world = self.world
        run = world.start("secret")
        self.assertEqual(world.ended("secret", run, 120), "success")
        self.assertEqual(world.rows("secret/orders"), [[0], [1]])
        logs = "".join(path.read_text(errors="replace") for path in (world.folder / "airflow/logs").rglob("*.log"))
        self.assertNotIn("clear-canary", logs)

    def test_6_cancelling_a_task_ends_its_process(self):
        world = self.world
        run = world.start("hangs")
        world.wait(lambda: running("--source hangs"), 120)
        process = Path("/proc") / running("--source hangs")[0]
        self.assertNotIn(b"clear-canary", (process / "cmdline").read_bytes())
        self.assertIn(b"INGEST__SOURCES__HANGS__PASSWORD=clear-canary", (process / "environ").read_bytes())
        world.call("PATCH", f"/api/v2/dags/hangs/dagRuns/{run}/taskInstances/run", {"new_state": "failed"})
        world.wait(lambda: not running("--source hangs"), 60)

    def test_7_a_time_out_ends_the_process(self):
        world = self.world
        run = world.start("times_out")
        self.assertEqual(world.ended("times_out", run, 120), "failed")
        world.wait(lambda: not running("--source hangs"), 30)


if __name__ == "__main__":
    random.seed(os.environ.get("INGEST_TEST_SEED"))
    unittest.main(verbosity=2)
