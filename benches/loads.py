#!/usr/bin/env python3
"""Full loads of databases into Delta, beside clients that ask for the same rows and throw them away.

    benches/loads.py PROGRAM [CASE…]      cases: mariadb, mysql, ferretdb (default: all)

ROWS=2000000 rows of one table; DOCUMENTS=200000 of one collection; RUNS=3 in turns, of which the median is printed. Needs what
`bash .ci/install` installs. MongoDB itself is in no package registry: FerretDB stands in for it, another vendor's server with the
same protocol, and its own speed is most of what is seen.
"""

import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from changes import HOME, RUNS, Binlog, Lake, measured

ROWS = int(os.environ.get("ROWS", "2000000"))
DOCUMENTS = int(os.environ.get("DOCUMENTS", "200000"))

FILL = f"""
INSERT INTO item SELECT n, CONCAT('name ', n), n / 7, NOW(6), n % 1000, CONCAT('some note about ', n % 4096)
  FROM (SELECT a.i + 50 * b.i + 2500 * c.i + 125000 * d.i AS n FROM fifty a, fifty b, fifty c, fifty d) AS numbers WHERE n < {ROWS};
ANALYZE TABLE item;
"""


def report(name, limits, walls, rows, nowhere):
    ratios = statistics.median(wall / limit for wall, limit in zip(walls, limits))
    speed = rows / statistics.median(walls)
    print(f"{name}, full load: {speed:,.0f} rows/s, wall {ratios:.2f} of {nowhere} (goal 1.10)")


def table(flavour):
    """All rows of a table, beside `mariadb --quick`, which prints them to nowhere."""
    server = Binlog(flavour)
    try:
        server.sql(FILL)
        source = {"connector": "mysql", "host": "127.0.0.1", "port": server.port, "database": "shop", "user": "bench", "password": "bench"}
        lake = Lake(source, "shop.item", "mode: full")
        client = ["mariadb", "--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={server.port}", "-ubench", "-pbench", "--quick", "-N", "shop"]
        nowhere = ["sh", "-c", 'exec "$@" >/dev/null', "sh", *client, "-e", "SELECT * FROM item"]
        limits, walls = [], []
        for _ in range(RUNS):
            limits.append(measured(nowhere)[0])
            walls.append(lake.run(rows=ROWS)[0])
        report(flavour, limits, walls, ROWS, "`mariadb --quick` to nowhere")
        lake.remove()
    finally:
        server.stop()


def bson(**fields):
    """A document; numbers are of 32 bits up to 2^31, lists hold documents."""
    out = b""
    for name, value in fields.items():
        key = name.encode() + b"\0"
        match value:
            case str():
                text = value.encode() + b"\0"
                out += b"\x02" + key + struct.pack("<i", len(text)) + text
            case bytes():
                out += b"\x03" + key + value
            case list():
                items = b"".join(b"\x03" + str(i).encode() + b"\0" + item for i, item in enumerate(value))
                out += b"\x04" + key + struct.pack("<i", len(items) + 5) + items + b"\0"
            case float():
                out += b"\x01" + key + struct.pack("<d", value)
            case int() if abs(value) < 1 << 31:
                out += b"\x10" + key + struct.pack("<i", value)
            case int():
                out += b"\x12" + key + struct.pack("<q", value)
    return struct.pack("<i", len(out) + 5) + out + b"\0"


class Cursor:
    """As much of MongoDB's protocol as drains a cursor: OP_MSG with one body each way."""

    def __init__(self, port):
        self.server = socket.create_connection(("127.0.0.1", port))

    def ask(self, **command):
        body = b"\0\0\0\0\0" + bson(**command, **{"$db": "shop"})
        self.server.sendall(struct.pack("<iiii", len(body) + 16, 1, 0, 2013) + body)
        length = struct.unpack("<i", self.server.recv(4, socket.MSG_WAITALL))[0]
        return self.server.recv(length - 4, socket.MSG_WAITALL)

    def drain(self, collection):
        """Bytes of all documents of a collection, which nobody looks at."""
        answer, came = self.ask(find=collection), 0
        while True:
            came += len(answer)
            at = answer.index(b"\x12id\0") + 4
            number = struct.unpack("<q", answer[at : at + 8])[0]
            if number == 0:
                return came
            answer = self.ask(getMore=Long(number), collection=collection)


class Long(int):
    """A number of 64 bits, whatever its size."""

    def __abs__(self):
        return 1 << 62


class Ferret:
    """FerretDB over SQLite, as the tests have it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="ingest-bench-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        os.mkdir(f"{self.folder}/data")
        command = [HOME / "bin/ferretdb", f"127.0.0.1:{self.port}", f"{self.folder}/data"]
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.cursor = Cursor(self.port)
                return
            except ConnectionRefusedError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("FerretDB does not start")
                time.sleep(0.05)

    def fill(self):
        document = lambda n: bson(_id=n, name=f"name {n}", amount=n / 7, quantity=n % 1000, note=f"some note about {n % 4096}")
        for first in range(0, DOCUMENTS, 1000):
            self.cursor.ask(insert="item", documents=[document(n) for n in range(first, min(first + 1000, DOCUMENTS))])

    def stop(self):
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()
        shutil.rmtree(self.folder)


def ferretdb():
    """All documents of a collection, beside a cursor that is drained without a look at them."""
    server = Ferret()
    try:
        server.fill()
        source = {"connector": "mongodb", "uri": f"mongodb://127.0.0.1:{server.port}/?directConnection=true", "database": "shop"}
        lake = Lake(source, "item", "mode: full")
        limits, walls = [], []
        for _ in range(RUNS):
            began = time.monotonic()
            server.cursor.drain("item")
            limits.append(time.monotonic() - began)
            walls.append(lake.run(rows=DOCUMENTS)[0])
        report("FerretDB", limits, walls, DOCUMENTS, "a cursor to nowhere")
        lake.remove()
    finally:
        server.stop()


CASES = {"mariadb": lambda: table("mariadb"), "mysql": lambda: table("mysql"), "ferretdb": ferretdb}

if __name__ == "__main__":
    for name in sys.argv[2:] or CASES:
        CASES[name]()
