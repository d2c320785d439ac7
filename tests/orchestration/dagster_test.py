"""The Dagster example, materialised by a real Dagster: what the program reports by Pipes stands in its event log.

Run in a Python that has Dagster; INGEST_PROGRAM names the program.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
EXAMPLE = TOP / "examples/orchestration/dagster/definitions.py"

CONFIGURATION = """
sources:
  shop:
    connector: files
    path: ./data
    streams:
      orders: {checks: [{column: id, not_null: true, on_fail: fail}]}
      customers: {}
"""


class OnDagster(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ingest-dagster-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        for name in ("home", "project/data"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "home/dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
        project = self.folder / "project"
        (project / "ingest.yaml").write_text(CONFIGURATION, encoding="utf-8")
        (project / "data/orders.csv").write_text("id,total\n1,9.50\n2,3.25\n3,\n", encoding="utf-8")
        (project / "data/customers.ndjson").write_text('{"id": 1}\n', encoding="utf-8")
        os.environ.update(DAGSTER_HOME=str(self.folder / "home"), INGEST_PROJECT=str(project))

    def materialize(self):
        command = [Path(sys.executable).parent / "dagster", "asset", "materialize", "-f", EXAMPLE, "--select", "*"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)

    def test_tables_become_materialisations_and_checks_become_checks(self):
        import dagster as dg

        done = self.materialize()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with dg.DagsterInstance.get() as instance:
            for name, rows in (("orders", 3), ("customers", 1)):
                event = instance.get_latest_materialization_event(dg.AssetKey(name))
                self.assertIsNotNone(event, name)
                metadata = event.asset_materialization.metadata
                self.assertEqual(metadata["dagster/row_count"].value, rows, metadata)
            self.assertEqual(self.checks(instance), [True])

        # A check that fails is reported, and fails the run.
        (self.folder / "project/data/orders-2.csv").write_text("id,total\n,1.00\n", encoding="utf-8")
        (self.folder / "project/data/orders.csv").write_text("id,total\n,9.50\n", encoding="utf-8")
        self.assertNotEqual(self.materialize().returncode, 0)
        with dg.DagsterInstance.get() as instance:
            self.assertEqual(self.checks(instance), [False, True])

    def checks(self, instance):
        """Whether the check has passed, each time, the last first."""
        import dagster as dg

        key = dg.AssetCheckKey(dg.AssetKey("orders"), "not_null_id")
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
        return [record.status.value == "SUCCEEDED" for record in records]


if __name__ == "__main__":
    unittest.main(verbosity=2)
