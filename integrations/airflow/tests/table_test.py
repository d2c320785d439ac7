"""A table of six million rows through Airflow's dynamic mapping, its slices killed at random and tried again: the lake equals the
source, by counts and a checksum that two engines compute, and nothing is there twice.

Run by run.sh where INGEST_TEST_AIRFLOW=full; INGEST_TEST_TABLE_ROWS and INGEST_TEST_SLICES make it smaller.
"""

import json
import os
import sys
import unittest

from world import EXAMPLE, HERE, World

sys.path.insert(0, str(HERE.parents[2] / "tests/orchestration"))

from table import Table, held

SLICES = int(os.environ.get("INGEST_TEST_SLICES", "16"))


def changed(text, *changes):
    """The example with other words, each of which must be there."""
    for old, new in changes:
        if old not in text:
            raise AssertionError(f"the example no longer says {old}")
        text = text.replace(old, new)
    return text


class Database(World):
    """The table, reached by an Airflow connection."""

    dags = {
        "ingest_orders.py": changed(
            EXAMPLE,
            ('source="shop"', 'source="db"'),
            ('select=["orders"]', 'select=["public.orders"]'),
            ("slices=8", f"slices={SLICES}"),
            ('# conn_id="shop_db"', 'conn_id="shop_db"'),
            # An attempt at a slice that an orphan still reads ends with 6, and is one more.
            ('"retries": 4', '"retries": 12'),
        )
    }

    def __init__(self, table):
        self.table = table
        super().__init__()

    def fill(self):
        (self.project / "ingest.yaml").write_text("sources:\n  db: {connector: postgres, streams: {public.orders: {}}}\n", encoding="utf-8")

    def connections(self):
        at = self.table.connection()
        shop = {"conn_type": "generic", "host": at["host"], "port": at["port"], "login": at["user"], "schema": at["database"]}
        return {"AIRFLOW_CONN_SHOP_DB": json.dumps(shop), "KILL_SECONDS": os.environ.get("KILL_SECONDS", "8"), "KILL_WORKERS": "1"}


class SixMillionRows(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        table = Table()
        cls.addClassCleanup(table.close)
        cls.world = Database(table)
        cls.addClassCleanup(cls.world.close)

    def test_a_table_whose_slices_are_killed_at_random_equals_its_source(self):
        world = self.world
        world.standalone()
        run = world.start("ingest_orders")
        self.assertEqual(world.ended("ingest_orders", run, 3600), "success", world.last_words())
        tries = [task["try_number"] for task in world.tasks("ingest_orders", run) if task["task_id"] == "slice_db"]
        kills = world.kills()
        print(f"\n{world.table.rows} rows, {len(tries)} slices, tries {sorted(tries)}; killed: {', '.join(kills)}", flush=True)
        self.assertEqual(held(world.project / "lake"), world.table.truth)
        self.assertEqual(len(tries), SLICES)
        self.assertGreaterEqual(len(kills), SLICES // 4, "hardly anything was killed")
        self.assertTrue(any("worker" in kill for kill in kills), "no worker was killed under its program")
        summary = world.xcom("ingest_orders", run, "finish_db")
        self.assertEqual((summary["outcome"], summary["rows_written"]), ("succeeded", world.table.rows))


if __name__ == "__main__":
    unittest.main(verbosity=2)
