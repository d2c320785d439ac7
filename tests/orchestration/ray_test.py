"""The Ray example on a cluster of two nodes, one of which is killed in mid-run with all that runs on it.

INGEST_PROGRAM names the program, RAY the folder of a Python environment with Ray, READER a Python with DuckDB.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from table import TOP, Table, held

PROGRAM = os.environ["INGEST_PROGRAM"]
BIN = Path(os.environ["RAY"]) / "bin"
SLICES = int(os.environ.get("INGEST_TEST_SLICES", "12"))


def processes():
    """Every process of this machine: its parent and its arguments."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            found[int(folder.name)] = (parent, words)
    return found


def descendants(top):
    """A process, its children, theirs, and so on, with their arguments."""
    known = processes()
    tree = {top: known[top][1]} if top in known else {}
    while True:
        more = {pid: words for pid, (parent, words) in known.items() if parent in tree and pid not in tree}
        if not more:
            return tree
        tree.update(more)


class Node:
    """One node, which goes on until it is killed."""

    def __init__(self, folder, *words):
        self.log = folder / f"node-{len(words)}.log"
        command = [BIN / "ray", "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", *words]
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_DISABLE_IMPORT_WARNING": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def said(self):
        return self.log.read_text(encoding="utf-8")

    def kill(self):
        """As a machine that loses its power: everything at once, without a word."""
        dead = descendants(self.process.pid)
        for pid in dead:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        return dead


def until(reached, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := reached():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s: {what()}")


def slices(tree):
    """The slices that the program reads among these processes."""
    return {int(words[words.index("--slice") + 1]) for words in tree.values() if words[0] == PROGRAM and "--slice" in words}


class OnTwoNodes(unittest.TestCase):
    def setUp(self):
        # Ray's sockets lie below it, and their paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.table = Table()
        self.addCleanup(self.table.close)
        source = {"connector": "postgres", **self.table.connection(), "streams": {"public.orders": {}}}
        (self.folder / "ingest.yaml").write_text(json.dumps({"sources": {"db": source}}), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.address.split(":")[1]
        self.head = self.node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder / 'ray'}")
        self.other = self.node(f"--address={self.address}")

    def node(self, *words):
        node = Node(self.folder, "--node-ip-address=127.0.0.1", *words)
        self.addCleanup(node.kill)
        until(lambda: "Ray runtime started" in node.said(), 180, node.said)
        return node

    def test_a_node_that_dies_costs_what_it_was_reading_and_nothing_else(self):
        command = [BIN / "python", TOP / "examples/orchestration/ray/load.py", "--address", self.address, "--source", "db"]
        command += ["--select", "public.orders", "--slices", str(SLICES), "--program", PROGRAM, "--folder", self.folder]
        errors = self.folder / "driver.log"
        with errors.open("w") as log:
            driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.folder)
        self.addCleanup(driver.kill)
        complain = lambda: errors.read_text(encoding="utf-8")[-4000:]
        parts = self.folder / "lake/_ingest/parts"

        def in_mid_run():
            self.assertIsNone(driver.poll(), complain())
            begun = {path.parts[-3] for path in parts.glob("*/*/*/*.json")}
            return len(begun) >= 3 and slices(descendants(self.other.process.pid))

        until(in_mid_run, 600, complain)
        lost = slices(self.other.kill())
        self.assertEqual(len(lost), 1, "the node was reading a slice")
        out = driver.communicate(timeout=1800)[0]
        self.assertEqual(driver.returncode, 0, complain())
        summary = json.loads(out.splitlines()[-1])
        self.assertEqual((summary["slices"], summary["outcome"]), (SLICES, "succeeded"))
        self.assertEqual(held(self.folder / "lake"), self.table.truth)
        runs = subprocess.run(
            [PROGRAM, "runs", "--limit", "1000", "--json"], cwd=self.folder, capture_output=True, text=True, check=True
        )
        outcomes = [run["outcome"] for run in json.loads(runs.stdout)]
        self.assertEqual(outcomes.count(None), 1, f"one run was killed: {outcomes}")
        self.assertEqual(outcomes.count("succeeded"), SLICES + 1, f"each slice once, and the close: {outcomes}")
        print(f"\n{self.table.rows} rows in {SLICES} slices over two nodes; slice {lost.pop()} was killed with its node", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
