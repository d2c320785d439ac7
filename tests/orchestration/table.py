"""A table in a private PostgreSQL, and whether a lake holds the same: rows, distinct keys, a checksum over every value.

Two engines compute the figures, PostgreSQL of the source and DuckDB's delta kernel of the lake. READER names a Python with
DuckDB, INGEST_TEST_TABLE_ROWS the number of rows.
"""

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "benches"))

from postgres import PostgreSQL

ROWS = int(os.environ.get("INGEST_TEST_TABLE_ROWS", "6000000"))

MAKE = """
CREATE UNLOGGED TABLE orders (id bigint PRIMARY KEY, customer text, total numeric(12,2), placed timestamptz, note text);
INSERT INTO orders SELECT n * 3, 'Zoë ' || n % 9973, (n * 7919 % 1000000) / 100.0,
  timestamptz '2020-01-01 00:00:00+00' + n * interval '1.7 seconds', CASE WHEN n % 5 > 0 THEN 'note ' || n % 101 END
FROM generate_series(1::bigint, {rows}) n;
VACUUM ANALYZE orders;
"""

# The sum of 60 bits of the MD5 of each row's text: it does not depend on the order, and a row that is twice there changes it.
OF_SOURCE = """
SELECT count(*), count(DISTINCT id), sum(('x' || substr(md5(concat_ws('|', id, customer, total,
  (extract(epoch from placed) * 1000000)::bigint, coalesce(note, '~'))), 1, 15))::bit(60)::bigint)::text FROM orders
"""
OF_LAKE = """
import os, sys, duckdb, duckdb_extension_delta
connection = duckdb.connect()
folder = os.path.join(os.path.dirname(duckdb_extension_delta.__file__), "extensions", f"v{duckdb.__version__}")
connection.load_extension(os.path.join(folder, "delta.duckdb_extension"))
connection.execute("SET enable_progress_bar = false")
connection.execute("SET TimeZone = 'UTC'")
row = connection.execute('''
SELECT count(*), count(DISTINCT id), sum(('0x' || substr(md5(concat_ws('|', id, customer, total, epoch_us(placed),
  coalesce(note, '~'))), 1, 15))::BIGINT)::VARCHAR FROM delta_scan($table)
''', {"table": sys.argv[1]}).fetchone()
print("|".join(map(str, row)), flush=True)
os._exit(0)
"""


class Table:
    """`public.orders` with so many rows, read by source `db`."""

    def __init__(self, rows=ROWS):
        self.rows = rows
        self.server = PostgreSQL("shared_buffers=256MB\n")
        self.server.sql(MAKE.format(rows=rows))
        self.truth = figures(self.server.sql(OF_SOURCE))
        if self.truth[:2] != (rows, rows):
            raise AssertionError(f"the source should have {rows} rows: {self.truth}")

    def connection(self):
        """The fields of the source that say where it is."""
        return {"host": "127.0.0.1", "port": self.server.port, "user": "postgres", "database": "postgres"}

    def close(self):
        self.server.stop()


def held(lake):
    """Rows, distinct keys and checksum of the lake's table."""
    reader = [os.environ["READER"], "-c", OF_LAKE, str(Path(lake) / "bronze/db/public_orders")]
    done = subprocess.run(reader, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    return figures(done.stdout)


def figures(text):
    rows, keys, checksum = text.strip().split("|")
    return int(rows), int(keys), int(checksum)
