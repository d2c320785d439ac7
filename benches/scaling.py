"""What sharing a plan between processes gains and costs: files on this machine, no server.

    scaling.py PROGRAM        ROWS=1000000 rows of a slice, RUNS=3

Eight slices are eight compressed CSV files, so that reading is work of the processor alone. They are read by one process at a time,
by one that is held to one core, and by eight at once. Then a plan of a hundred slices: what `plan` and `--finish` take.
"""

import gzip
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.abspath(sys.argv[1])
ROWS = int(os.environ.get("ROWS", "1000000"))
RUNS = int(os.environ.get("RUNS", "3"))
SLICES, MANY = 8, 100
# A slice of files is a megabyte at least.
SMALL = 1_200_000
WORDS = ["alpha", "beta", "gamma", "delta", "épsilon"]


def project(files, suffix, content):
    """A folder whose files are one and the same, under as many names: writing them takes no time."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ingest-bench-scaling-"))
    (folder / "data").mkdir()
    first = folder / f"data/0000.csv{suffix}"
    first.write_bytes(content)
    for number in range(1, files):
        os.link(first, folder / f"data/{number:04}.csv{suffix}")
    source = {"connector": "files", "path": "./data", "files": {"rows": {"path": f"*.csv{suffix}", "format": "csv"}}}
    (folder / "ingest.yaml").write_text(json.dumps({"sources": {"shop": source}}))
    return folder


def lines(count):
    yield "id,name,at,amount,share\n"
    for n in range(count):
        second = n % 86400
        at = f"2024-03-{1 + n % 28:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
        yield f"{n},{WORDS[n % 5]} {n % 1000},{at},{n * 7919 % 100000}.{n % 100:02},{n % 9973 / 8}\n"


def command(folder, *words, prefix=()):
    child = [*prefix, PROGRAM, *words]
    return subprocess.Popen(child, cwd=folder, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def ended(child):
    out = child.communicate()[0]
    if child.returncode:
        sys.exit(f"{child.args} ended with {child.returncode}: {out}")
    return out


def timed(work):
    """Wall seconds, and CPU seconds of the processes that ended meanwhile."""
    before, start = os.times(), time.monotonic()
    work()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": time.monotonic() - start, "cpu": cpu}


def plan(folder, slices):
    shutil.rmtree(folder / "lake", ignore_errors=True)
    (folder / "plan.json").unlink(missing_ok=True)
    taken = timed(lambda: ended(command(folder, "plan", "--source", "shop", "--slices", str(slices), "-o", "plan.json")))
    parts = json.loads((folder / "plan.json").read_text())["parts"]
    if parts != slices:
        sys.exit(f"wanted were {slices} slices, the plan has {parts}")
    return taken


def part(folder, number, prefix=()):
    return command(folder, "run", "--plan", "plan.json", "--slice", str(number), "--progress", "off", prefix=prefix)


def finish(folder, rows):
    done = []
    taken = timed(lambda: done.append(ended(command(folder, "run", "--plan", "plan.json", "--finish", "--progress", "json"))))
    summary = json.loads(done[0].splitlines()[-1])
    if (summary["outcome"], summary["rows_written"]) != ("succeeded", rows):
        sys.exit(f"the lake has {summary['rows_written']} of {rows} rows: {summary['outcome']}")
    return taken


def in_turn(folder, prefix=()):
    for number in range(SLICES):
        ended(part(folder, number, prefix))


def at_once(folder):
    for child in [part(folder, number) for number in range(SLICES)]:
        ended(child)


def processes():
    content = gzip.compress("".join(lines(ROWS)).encode(), 6)
    folder = project(SLICES, ".gz", content)
    ways = {
        "one process": lambda: in_turn(folder),
        "one process on one core": lambda: in_turn(folder, ("taskset", "-c", "0")),
        "eight processes": lambda: at_once(folder),
    }
    runs = {name: [] for name in ways}
    for _ in range(RUNS):
        # In turns: machines drift.
        for name, work in ways.items():
            plan(folder, SLICES)
            runs[name].append(timed(work))
            finish(folder, SLICES * ROWS)
    middle = {name: {key: statistics.median(run[key] for run in of) for key in ("wall", "cpu")} for name, of in runs.items()}
    for name, took in middle.items():
        cores = took["cpu"] / took["wall"]
        print(f"{name}: {took['wall']:.2f} s wall, {took['cpu']:.2f} s CPU, {cores:.2f} cores busy")
    eight = middle["eight processes"]
    print(f"{os.cpu_count()} cores, {SLICES} slices of {ROWS} rows ({len(content) >> 20} MiB compressed)")
    print(f"one process on one core / eight processes: {middle['one process on one core']['wall'] / eight['wall']:.2f} (goal 1.8 on two cores)")
    print(f"one process, threads and all / eight processes: {middle['one process']['wall'] / eight['wall']:.2f}")
    shutil.rmtree(folder)


def overhead():
    text = "".join(lines(SMALL // 50)).encode()
    if len(text) < 1 << 20:
        sys.exit("the files are too small to be slices")
    folder = project(MANY, "", text)
    rows = MANY * (SMALL // 50)
    both = []
    for _ in range(RUNS):
        planned = plan(folder, MANY)
        for number in range(0, MANY, 2):
            for child in [part(folder, number), part(folder, number + 1)]:
                ended(child)
        both.append((planned["wall"], finish(folder, rows)["wall"]))
    planned, finished = (statistics.median(times) for times in zip(*both))
    print(f"{MANY} slices: plan {planned:.2f} s + finish {finished:.2f} s = {planned + finished:.2f} s (goal 2)")
    shutil.rmtree(folder)


if __name__ == "__main__":
    processes()
    overhead()
