#!/usr/bin/env python3
"""Upserts by `ingest run` against MERGE of delta-rs (the Python wheel), in turns, on the same rows; results are compared.

    benches/merge.py PROGRAM [CASE…]      cases: small, everywhere, end, versions (default: the first three)

RUNS=3 repeats each measurement; medians are printed. Time and peak memory are those of a process that reads the changes from a
Parquet file and commits them; both have the table from the same rows. Needs deltalake and pyarrow (`bash .ci/install`).
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

CASES = {
    # name: rows of the table, files it is read from, changes, whether they lie in the last tenth of the keys
    "small": (1_000_000, 2, 100_000, False),
    "everywhere": (4_000_000, 8, 400_000, False),
    "end": (4_000_000, 8, 400_000, True),
}

MERGE = """
import sys
import pyarrow.parquet as pq
from deltalake import DeltaTable
table = DeltaTable(sys.argv[1])
source = pq.read_table(sys.argv[2])
(table.merge(source, "t.id = s.id", source_alias="s", target_alias="t", streamed_exec=False)
    .when_matched_update_all().when_not_matched_insert_all().execute())
"""


def rows(first, count, version, ids=None):
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.array(ids if ids is not None else range(first, first + count), pa.int64())
    number = pc.add(ids, version)
    text = pc.binary_join_element_wise("name", pc.cast(number, pa.string()), "-")
    return pa.table({
        "id": ids,
        "name": text,
        "amount": pc.divide(pc.cast(pc.multiply(number, 7919), pa.float64()), 100.0),
        "day": pc.cast(pc.cast(pc.add(pc.bit_wise_and(number, 1023), 19_000), pa.int32()), pa.date32()),
        "quantity": pc.bit_wise_and(pc.multiply(number, 31), 255),
        "note": pc.binary_join_element_wise("some note about", pc.cast(pc.bit_wise_and(number, 4095), pa.string()), " "),
        "at": pc.cast(pc.add(pc.multiply(number, 1_000_003), 1_700_000_000_000_000), pa.timestamp("us", "UTC")),
    })


def measured(command, environment=None):
    """Seconds of wall, seconds of CPU, peak memory in bytes."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    output, errors = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} failed: {errors.decode()}{output.decode()}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output


def changes(count, table_rows, at_end):
    """Nine in ten are updates, the rest new keys."""
    chance = random.Random(7)
    updated = count * 9 // 10
    pool = range(table_rows * 9 // 10, table_rows) if at_end else range(table_rows)
    ids = chance.sample(pool, min(updated, len(pool) * 9 // 10))
    return sorted(ids) + list(range(table_rows, table_rows + count - len(ids)))


def ingest(program, folder, write):
    config = folder / "ingest.yaml"
    config.write_text(
        "lake: {url: ./lake}\nmemory: 256MiB\nsources:\n  shop:\n    connector: files\n    path: ./data\n"
        "    files: {orders: {path: \"*.parquet\", format: parquet}}\n"
        f"    streams: {{orders: {{mode: incremental, write: {write}, key: [id]}}}}\n"
    )
    return [program, "--config", str(config), "run", "--source", "shop", "--progress", "json"]


def held(path, current=False):
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    table = DeltaTable(str(path)).to_pyarrow_table()
    if current:
        table = table.filter(pc.field("is_current_record"))
    return table.select(["id", "name", "amount", "day", "quantity", "note", "at"]).sort_by("id")


def prepare(scratch, base, name):
    import pyarrow.parquet as pq
    from deltalake import write_deltalake

    total, files, count, at_end = CASES[name]
    each = total // files
    for i in range(files):
        pq.write_table(rows(i * each, each, 0), base / "data" / f"{i:03}.parquet")
        write_deltalake(str(scratch / "delta"), rows(i * each, each, 0), mode="append")
    pq.write_table(rows(0, 0, 1, changes(count, total, at_end)), scratch / "changes.parquet")


def are_equal(ours, theirs, current):
    return held(ours, current).equals(held(theirs))


def apart(function, *arguments):
    """In a process of its own: a child is charged with the memory of the process that starts it."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def case(program, name, write="merge"):
    total, _, count, _ = CASES[name]
    runs = int(os.environ.get("RUNS", "3"))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        base = scratch / "base"
        (base / "data").mkdir(parents=True)
        apart(prepare, scratch, base, name)
        measured(ingest(program, base, write))
        ours, theirs, figures = [], [], None
        for run in range(runs):
            copy = scratch / f"ours-{run}"
            shutil.copytree(base, copy)
            shutil.copy(scratch / "changes.parquet", copy / "data" / "changes.parquet")
            *figure, output = measured(ingest(program, copy, write))
            ours.append(figure)
            figures = json.loads(output.splitlines()[-1])["streams"][0].get("merge")
            other = scratch / f"theirs-{run}"
            shutil.copytree(scratch / "delta", other)
            *figure, _ = measured([sys.executable, "-c", MERGE, str(other), str(scratch / "changes.parquet")])
            theirs.append(figure)
            if run == 0:
                equal = apart(are_equal, copy / "lake/bronze/shop/orders", other, write == "scd2")
                print(f"{name}: results {'equal' if equal else 'DIFFER'}")
                if not equal:
                    sys.exit(1)
            shutil.rmtree(copy)
            shutil.rmtree(other)
        median = lambda figures: [statistics.median(column) for column in zip(*figures)]
        (wall, cpu, peak), (wall_1, cpu_1, peak_1) = median(ours), median(theirs)
        print(f"{name} ({total:,} rows, {count:,} changes): {write} {wall:.2f} s, {cpu:.2f} s CPU, {peak / 1e6:.0f} MB; "
              f"MERGE {wall_1:.2f} s, {cpu_1:.2f} s CPU, {peak_1 / 1e6:.0f} MB; "
              f"ratios {wall / wall_1:.2f} time, {cpu / cpu_1:.2f} CPU, {peak / peak_1:.2f} memory")
        print(f"  {figures}")
        return wall


def main():
    program, *wanted = sys.argv[1:] or sys.exit(__doc__)
    for name in wanted or ["small", "everywhere", "end"]:
        if name == "versions":
            merged, versions = case(program, "small"), case(program, "small", "scd2")
            print(f"versions: {versions / merged:.2f} of the time of merge")
        else:
            case(program, name)


if __name__ == "__main__":
    main()
