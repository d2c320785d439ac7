"""End-to-end figures of the built program, beside their limits, in one run and in turns.

usage: end_to_end.py PROGRAM lineitem|tables|start|memory
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from postgres import PostgreSQL

PROGRAM = os.path.abspath(sys.argv[1])
RUNS = int(os.environ.get("RUNS", "3"))


class Server(PostgreSQL):
    """The server, and what is the least that reading it takes."""

    def copy(self, *tables):
        """COPY BINARY to nowhere, one connection."""
        commands = [f"\\copy {table} to /dev/null (format binary)" for table in tables]
        psql = [*self.psql, "-qX"]
        return measure(psql, input="\n".join(commands))


def measure(command, cwd=None, input=None):
    """Wall and CPU seconds and peak MB of one process, as the kernel counted them."""
    start = time.monotonic()
    child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out = child.communicate(input)[0] if input else None
    out = out if input else child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0) if child.returncode is None else (0, 0, None)
    wall = time.monotonic() - start
    if usage is None:
        return {"wall": wall, "code": child.returncode, "out": out}
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[0]} ended with {child.returncode}: {out}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / 1024, "out": out}


def project(server, streams, memory=None):
    """A folder with a configuration that reads a server."""
    folder = tempfile.mkdtemp(prefix="ingest-bench-lake-")
    source = {"connector": "postgres", "host": "127.0.0.1", "port": server.port, "database": "postgres", "user": "postgres"}
    config = {"lake": {"url": "./lake"}, "sources": {"db": {**source, "streams": streams}}}
    if memory:
        config["memory"] = memory
    pathlib.Path(folder, "ingest.yaml").write_text(json.dumps(config))
    return folder


def load(folder):
    shutil.rmtree(f"{folder}/lake", ignore_errors=True)
    return measure([PROGRAM, "run", "--source", "db", "--progress", "off"], cwd=folder)


def median(runs, key):
    return statistics.median(run[key] for run in runs)


LINEITEM = """
CREATE UNLOGGED TABLE IF NOT EXISTS lineitem (
  l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity numeric(15,2),
  l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1),
  l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44));
INSERT INTO lineitem SELECT
  n / 4 * 8 + n % 4, 1 + (n * 7919::bigint) % 200000, 1 + (n * 104729::bigint) % 10000, 1 + n % 7, 1 + (n * 31) % 50,
  (90000 + (n * 7919::bigint) % 10000000) / 100.0, (n % 11) / 100.0, (n % 9) / 100.0,
  (ARRAY['A','N','R'])[1 + n % 3], (ARRAY['O','F'])[1 + n % 2],
  date '1992-01-02' + (n * 13 % 2500)::int, date '1992-01-31' + (n * 13 % 2500)::int, date '1992-01-10' + (n * 13 % 2500)::int,
  (ARRAY['DELIVER IN PERSON','COLLECT COD','NONE','TAKE BACK RETURN'])[1 + n % 4],
  (ARRAY['REG AIR','AIR','RAIL','SHIP','TRUCK','MAIL','FOB'])[1 + n % 7],
  substr(md5(n::text) || ' ' || md5((n / 3)::text), 1, 10 + (n * 17 % 34)::int)
FROM generate_series(1::bigint, {rows}) n;
"""


def lineitem():
    """Rows are made by a formula with the types and widths of TPC-H's lineitem."""
    scale = float(os.environ.get("SCALE", "1"))
    rows = int(6_001_215 * scale)
    server = Server("shared_buffers=3GB\n")
    try:
        server.sql(LINEITEM.format(rows=rows))
        server.sql("VACUUM ANALYZE lineitem")
        folder = project(server, {"public.lineitem": {}})
        limits, loads = [], []
        server.copy("lineitem"), load(folder)
        for _ in range(RUNS):
            limits.append(server.copy("lineitem"))
            loads.append(load(folder))
        ratio = statistics.median(l["wall"] / c["wall"] for l, c in zip(loads, limits))
        print(f"rows {rows}; COPY BINARY to nowhere {median(limits, 'wall'):.2f} s; to Delta {median(loads, 'wall'):.2f} s")
        print(f"wall / limit {ratio:.2f} (goal 1.00)")
        print(f"client CPU {median(loads, 'cpu') / rows * 1e6:.2f} us/row (goal 0.85)")
        print(f"peak memory {median(loads, 'peak'):.0f} MB (goal 200)")
        shutil.rmtree(folder)
        if scale == 1:
            server.sql(LINEITEM.format(rows=2 * rows))
            server.sql("VACUUM ANALYZE lineitem")
            folder = project(server, {"public.lineitem": {}})
            large = load(folder)
            print(f"three times the rows: peak memory {large['peak']:.0f} MB, {large['peak'] / median(loads, 'peak'):.2f} of that (goal 1.10)")
            shutil.rmtree(folder)
    finally:
        server.stop()


def tables():
    server = Server("")
    try:
        names = [f"t{n}" for n in range(300)]
        server.sql("".join(
            f"CREATE TABLE {n} (id bigint PRIMARY KEY, name text, at timestamptz, amount numeric(12,2));"
            f"INSERT INTO {n} SELECT g, 'name ' || g, now(), g / 3.0 FROM generate_series(1, 1000) g;" for n in names) + "ANALYZE;")
        folder = project(server, {"public.*": {}})
        load(folder)
        loads = [load(folder) for _ in range(RUNS)]
        again = measure([PROGRAM, "run", "--source", "db", "--progress", "off"], cwd=folder)
        print(f"CPU per table {median(loads, 'cpu') / 300 * 1000:.1f} ms (goal: 10 over a bare COPY); peak {median(loads, 'peak'):.0f} MB")
        print(f"again, replacing: {again['cpu'] / 300 * 1000:.1f} ms a table")
        shutil.rmtree(folder)
    finally:
        server.stop()


def start():
    helps = [measure([PROGRAM, "--help"]) for _ in range(21)]
    print(f"--help {median(helps, 'wall') * 1000:.1f} ms wall (goal 15)")
    print(f"program {os.path.getsize(PROGRAM) / 1e6:.1f} MB (goal 80)")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ingest-bench-files-"))
    (folder / "data").mkdir()
    with open(folder / "data/rows.csv", "w") as file:
        file.write("id,name,at,amount\n")
        file.writelines(f"{n},name {n},2024-01-01T00:00:00Z,{n}.50\n" for n in range(20_000))
    (folder / "ingest.yaml").write_text('{"sources": {"files": {"path": "./data"}}}')
    runs = []
    for _ in range(11):
        shutil.rmtree(folder / "lake", ignore_errors=True)
        runs.append(measure([PROGRAM, "run", "--source", "files", "--progress", "off"], cwd=folder))
    print(f"20,000-row job {median(runs, 'cpu'):.3f} s CPU (goal 0.15), {median(runs, 'wall'):.3f} s wall")
    shutil.rmtree(folder)


def memory():
    server = Server("shared_buffers=1GB\n")
    try:
        server.sql("CREATE UNLOGGED TABLE wide AS SELECT g AS id, repeat(md5(g::text), 30) AS text FROM generate_series(1, 2800000) g")
        size = int(server.sql("SELECT sum(length(text)) FROM wide")) / (1 << 20)
        folder = project(server, {"public.wide": {}}, memory="128MiB")
        run = load(folder)
        print(f"table {size:.0f} MiB, budget 128 MiB: peak {run['peak']:.0f} MiB (goal 160)")
        shutil.rmtree(folder)
    finally:
        server.stop()


if __name__ == "__main__":
    {"lineitem": lineitem, "tables": tables, "start": start, "memory": memory}[sys.argv[2]]()
