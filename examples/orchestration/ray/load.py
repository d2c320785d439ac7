"""One table by the machines of a Ray cluster: plan, a task for each slice, finish.

    ray job submit -- python load.py --source shop_db --select public.orders --slices 32
    python load.py --source shop_db --slices 4            # a cluster of this machine alone

Each task runs the program on whatever node it lands. A node that dies takes its tasks with it; Ray starts them again elsewhere,
and they go on where they stood. All nodes need the program, its ingest.yaml, and a lake that all of them reach.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import ray

# Configuration, credentials, checks: another attempt would end the same.
PERMANENT = (2, 3, 5)


class Permanent(Exception):
    """Nothing that another attempt would change."""


def ingest(arguments, program, folder):
    """Runs the program; gives what it printed. Its own log goes to the task's."""
    done = subprocess.run([program, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode in PERMANENT:
        raise Permanent(f"ingest {arguments[0]} ended with {done.returncode}")
    if done.returncode != 0:
        raise RuntimeError(f"ingest {arguments[0]} ended with {done.returncode}")
    return done.stdout


def run_plan(plan, words, program, folder):
    """One command on a plan that came with the task; gives the summary."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "plan.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(plan)
        lines = ingest(["run", "--plan", path, *words, "--progress", "json"], program, folder).splitlines()
    return json.loads(lines[-1])


@ray.remote(num_cpus=1, max_retries=5, retry_exceptions=[RuntimeError])
def read(plan, part, program, folder):
    return run_plan(plan, ["--slice", str(part)], program, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--select", action="append", default=[])
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--program", default="ingest")
    parser.add_argument("--folder", default=os.getcwd(), help="where ingest.yaml is, on every node")
    parser.add_argument("--address", default=None, help="of the cluster; left out, the one this runs in, else a new one")
    words = parser.parse_args()
    ray.init(address=words.address, log_to_driver=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "plan.json")
        select = [word for name in words.select for word in ("--select", name)]
        ingest(
            ["plan", "--source", words.source, *select, "--slices", str(words.slices), "-o", path],
            words.program,
            words.folder,
        )
        with open(path, encoding="utf-8") as file:
            plan = file.read()
    parts = json.loads(plan)["parts"]
    shared = ray.put(plan)
    done = ray.get([read.remote(shared, part, words.program, words.folder) for part in range(parts)])
    staged = sum(stream.get("rows_staged", 0) for one in done for stream in one["streams"])
    finished = run_plan(plan, ["--finish"], words.program, words.folder)
    print(json.dumps({"slices": parts, "rows_staged": staged, "outcome": finished["outcome"]}))
    return finished["exit_code"]


if __name__ == "__main__":
    sys.exit(main())
