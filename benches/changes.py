#!/usr/bin/env python3
"""Changes from the logs of databases into Delta, beside programs that read the same log and do nothing with it.

    benches/changes.py PROGRAM [CASE…]      cases: append, merge, mariadb, mysql, latency, memory, tables
                                            (default: all but tables, which take minutes to make)

CHANGES=2000000 changes of one table, nine in ten inserts and updates, in transactions of a hundred; RUNS=3 in turns, of which the
median is printed; SECONDS=30 of 500 transactions a second; ROWS=5000000 of one transaction; TABLES=10000 of one
feed. Needs what `bash .ci/install`
installs, and of Debian's mariadb-client the program mariadb-binlog, which is fetched where it is missing.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from postgres import BIN, PostgreSQL

HOME = pathlib.Path(os.environ.get("INGEST_TEST_HOME", pathlib.Path.home() / ".cache/ingest-test"))
PROGRAM = os.path.abspath(sys.argv[1])
CHANGES = int(os.environ.get("CHANGES", "2000000"))
RUNS = int(os.environ.get("RUNS", "3"))
SECONDS = int(os.environ.get("SECONDS", "30"))
ROWS = int(os.environ.get("ROWS", "5000000"))
TABLES = int(os.environ.get("TABLES", "10000"))
RATE = 500
LOGICAL = "wal_level=logical\nshared_buffers=1GB\nmax_replication_slots=8\nmax_wal_senders=8\n"


def measured(command, cwd=None):
    """Seconds of wall, peak memory in MiB, what was printed."""
    began = time.monotonic()
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    if child.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {child.returncode}: {out}")
    return wall, usage.ru_maxrss / 1024, out


class Lake:
    """A folder with a configuration that captures changes of one table."""

    def __init__(self, source, stream, options="mode: cdc", **top):
        self.folder = tempfile.mkdtemp(prefix="ingest-bench-changes-")
        mode = dict(word.split(": ") for word in options.split(", "))
        lake = {"url": "./lake", **top.pop("lake", {})}
        config = {"lake": lake, "sources": {"db": {**source, "streams": {stream: mode}}}, **top}
        pathlib.Path(self.folder, "ingest.yaml").write_text(json.dumps(config))
        self.stream = stream

    def run(self, rows=None):
        wall, peak, out = measured([PROGRAM, "run", "--source", "db", "--progress", "json"], cwd=self.folder)
        summary = json.loads(out.splitlines()[-1])
        if summary["outcome"] != "succeeded" or (rows is not None and summary["rows_read"] != rows):
            sys.exit(f"{summary['rows_read']} rows were read, {rows} wanted: {summary['outcome']}")
        return wall, peak

    def follow(self):
        command = [PROGRAM, "run", "--source", "db", "--progress", "off", "--follow"]
        return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def table(self):
        name = "".join(c if c.isalnum() or c == "_" else "_" for c in self.stream.lower())
        return pathlib.Path(self.folder, "lake/bronze/db", name)

    def remove(self):
        shutil.rmtree(self.folder)


def postgres(server, name="ingest"):
    return {"connector": "postgres", "host": "127.0.0.1", "port": server.port, "database": "postgres", "user": "postgres", "slot": name}


COLUMNS = "id bigint PRIMARY KEY, name varchar(60), amount decimal(12,2), at timestamp(6), quantity int, note varchar(100)"

CHURN = """
CREATE TABLE item (%s);
CREATE PROCEDURE churn(first bigint, last bigint) LANGUAGE plpgsql AS $$ BEGIN
  FOR n IN first..last BY 100 LOOP
    INSERT INTO item SELECT i, 'name ' || i, i / 7.0, now(), i %% 1000, 'some note about ' || i %% 4096
      FROM generate_series(n, n + 49) i;
    UPDATE item SET amount = amount + 1, quantity = quantity + 1 WHERE id BETWEEN n AND n + 39;
    DELETE FROM item WHERE id BETWEEN n + 40 AND n + 49;
    COMMIT;
  END LOOP;
END $$;
""" % COLUMNS


class Churning(PostgreSQL):
    """A server whose table changes: a hundred changes of fifty rows in each transaction."""

    def __init__(self):
        super().__init__(LOGICAL)
        self.sql(CHURN)
        self.done = 0

    def churn(self):
        self.sql(f"CALL churn({self.done + 1}, {self.done + CHANGES}); CHECKPOINT")
        self.done += CHANGES
        return self.sql("SELECT pg_current_wal_flush_lsn()").strip()

    def to_nowhere(self, slot, end):
        """The server's own client takes the changes of a slot, and throws them away."""
        recv = [BIN / "pg_recvlogical", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", "postgres"]
        options = ["-o", "proto_version=1", "-o", "publication_names=ingest", "--endpos", end, "--no-loop", "-f", "/dev/null"]
        return measured([*map(str, recv), "--slot", slot, "--start", *options])[0]


def append():
    """Changes a second appended to Delta / those that pg_recvlogical takes to nowhere."""
    server = Churning()
    try:
        lake = Lake(postgres(server), "public.item")
        lake.run(rows=0)
        ratios, speeds = [], []
        for _ in range(RUNS):
            server.sql("SELECT pg_create_logical_replication_slot('nowhere', 'pgoutput')")
            end = server.churn()
            limit = server.to_nowhere("nowhere", end)
            wall, _ = lake.run(rows=CHANGES)
            server.sql("SELECT pg_drop_replication_slot('nowhere')")
            ratios.append(limit / wall)
            speeds.append(CHANGES / wall)
        print(f"PostgreSQL, appended: {statistics.median(speeds):,.0f} changes/s, {statistics.median(ratios):.2f} of pg_recvlogical to nowhere (goal 0.70)")
        lake.remove()
    finally:
        server.stop()


def merge():
    """Changes a second merged into Delta."""
    server = Churning()
    try:
        lake = Lake(postgres(server), "public.item", "mode: cdc, write: merge")
        lake.run(rows=0)
        speeds = []
        for _ in range(RUNS):
            server.churn()
            speeds.append(CHANGES / lake.run(rows=CHANGES)[0])
        print(f"PostgreSQL, merged: {statistics.median(speeds):,.0f} changes/s (goal 110,000)")
        lake.remove()
    finally:
        server.stop()


BINLOG_CHURN = """
CREATE TABLE item (%s);
CREATE TABLE fifty (i int PRIMARY KEY);
INSERT INTO fifty VALUES %s;
DELIMITER //
CREATE PROCEDURE churn(first bigint, last bigint) BEGIN
  WHILE first < last DO
    START TRANSACTION;
    INSERT INTO item SELECT first + i, CONCAT('name ', first + i), (first + i) / 7, NOW(6), i, CONCAT('some note about ', first %% 4096) FROM fifty;
    UPDATE item SET amount = amount + 1, quantity = quantity + 1 WHERE id BETWEEN first AND first + 39;
    DELETE FROM item WHERE id BETWEEN first + 40 AND first + 49;
    COMMIT;
    SET first = first + 100;
  END WHILE;
END //
""" % (COLUMNS, ", ".join(f"({i})" for i in range(50)))


class Binlog:
    """A private MariaDB or MySQL on loopback, as the tests have it."""

    def __init__(self, flavour):
        self.flavour = flavour
        self.folder = tempfile.mkdtemp(prefix="ingest-bench-")
        shutil.copytree(HOME / f"{flavour}-data", f"{self.folder}/data")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = ["/usr/sbin/mariadbd", "--no-defaults"] if flavour == "mariadb" else [
            str(HOME / "mysql/bin/mysqld"), "--no-defaults", f"--basedir={HOME / 'mysql'}", "--mysqlx=OFF", "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON", "--default-authentication-plugin=mysql_native_password"]
        command += [
            f"--datadir={self.folder}/data", f"--socket={self.folder}/socket", f"--port={self.port}", f"--pid-file={self.folder}/pid",
            f"--tmpdir={self.folder}", "--user=root", "--bind-address=127.0.0.1", "--server-id=7", "--log-bin=binlog",
            "--binlog-format=ROW", "--binlog-row-image=FULL", "--binlog-row-metadata=FULL", "--innodb-buffer-pool-size=1G",
            "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--skip-name-resolve",
            "--character-set-server=utf8mb4"]
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{self.folder}/log", "w"))
        deadline = time.monotonic() + 60
        while not os.path.exists(f"{self.folder}/socket"):
            if self.server.poll() is not None or time.monotonic() > deadline:
                sys.exit(pathlib.Path(self.folder, "log").read_text())
            time.sleep(0.05)
        # Old clients do not know how MySQL 8 asks for passwords by default.
        plugin = "" if flavour == "mariadb" else "WITH mysql_native_password "
        self.sql(f"CREATE USER bench@'%' IDENTIFIED {plugin}BY 'bench'; GRANT ALL ON *.* TO bench@'%'; CREATE DATABASE shop", "mysql")
        self.sql(BINLOG_CHURN)
        self.done = 0

    def sql(self, text, database="shop"):
        client = ["mariadb", "--no-defaults", f"--socket={self.folder}/socket", "-uroot", "-pr00t'pw", "-NB", database]
        return subprocess.run(client, input=text, check=True, text=True, capture_output=True).stdout

    def churn(self):
        """Changes, in a file of the log that has nothing before them. Gives the name of that file."""
        status = self.sql("FLUSH BINARY LOGS; SHOW MASTER STATUS").split()[0]
        self.sql(f"CALL churn({self.done + 1}, {self.done + CHANGES})")
        self.done += CHANGES
        return status

    def to_file(self, first):
        """The server's own client copies its log from a file on; MySQL has none here, so its stream is copied as it comes."""
        if self.flavour == "mysql":
            return self.stream_to_file(first)
        folder = tempfile.mkdtemp(prefix="ingest-bench-binlog-", dir=self.folder)
        server = ["--host=127.0.0.1", f"--port={self.port}", "--user=bench", "--password=bench"]
        copy = [binlog_program(), "--no-defaults", "--raw", "--read-from-remote-server", "--to-last-log", *server]
        wall, _, _ = measured([*copy, f"--result-file={folder}/", first])
        shutil.rmtree(folder)
        return wall

    def stream_to_file(self, first):
        """COM_BINLOG_DUMP up to the end of the log, and every byte of the answer into a file."""
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port)) as server, open(f"{self.folder}/copy", "wb", 0) as file:
            said = packet(server)
            at = said.index(b"\0", 1) + 5
            salt = said[at : at + 8] + said[at + 27 : at + 39]
            # Long passwords, protocol 4.1, native passwords; packets up to 16 MiB, utf8mb4.
            head = struct.pack("<IIB23x", 0x1 | 0x200 | 0x8000 | 0x80000, 1 << 24, 45)
            send(server, 1, head + b"bench\0\x14" + scramble(b"bench", salt) + b"mysql_native_password\0")
            expect(packet(server))
            send(server, 0, b"\x03SET @master_binlog_checksum = 'NONE'")
            expect(packet(server))
            # From the first event on, with an end, as a replica of number 99.
            send(server, 0, struct.pack("<BIHI", 0x12, 4, 1, 99) + first.encode())
            tail = b""
            while not (tail[-9:-6] == b"\x05\0\0" and tail[-5:-4] == b"\xfe"):
                came = server.recv(1 << 20)
                if not came:
                    sys.exit("the server ended the stream of its log")
                file.write(came)
                tail = (tail + came)[-9:]
        return time.monotonic() - began

    def stop(self):
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()
        shutil.rmtree(self.folder)


def packet(server):
    """The body of a packet of MySQL's protocol."""
    head = server.recv(4, socket.MSG_WAITALL)
    return server.recv(int.from_bytes(head[:3], "little"), socket.MSG_WAITALL)


def send(server, number, body):
    server.sendall(len(body).to_bytes(3, "little") + bytes([number]) + body)


def expect(answer):
    if answer[0] != 0:
        sys.exit(f"the server refuses: {answer!r}")


def scramble(password, salt):
    """What `mysql_native_password` proves the password with."""
    once = hashlib.sha1(password).digest()
    mask = hashlib.sha1(salt + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, mask))


def binlog_program():
    """mariadb-binlog; taken out of Debian's package without installing it, where it is not there."""
    found = shutil.which("mariadb-binlog") or shutil.which("mysqlbinlog")
    unpacked = HOME / "mariadb-client"
    if found is None and not (unpacked / "usr/bin/mariadb-binlog").exists():
        unpacked.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "mariadb-client"], cwd=unpacked, check=True, stderr=subprocess.DEVNULL)
        package = next(unpacked.glob("mariadb-client_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        package.unlink()
    return found or str(unpacked / "usr/bin/mariadb-binlog")


def binlog(flavour):
    """Changes a second appended to Delta / those that the server's own client copies to a file."""
    server = Binlog(flavour)
    try:
        source = {"connector": "mysql", "host": "127.0.0.1", "port": server.port, "database": "shop", "user": "bench", "password": "bench"}
        lake = Lake(source, "shop.item")
        lake.run(rows=0)
        ratios, speeds = [], []
        limits = {"mariadb": "mariadb-binlog", "mysql": "the bare stream"}
        for _ in range(RUNS):
            first = server.churn()
            limit = server.to_file(first)
            wall, _ = lake.run(rows=CHANGES)
            ratios.append(limit / wall)
            speeds.append(CHANGES / wall)
        print(f"{flavour}, appended: {statistics.median(speeds):,.0f} changes/s, {statistics.median(ratios):.2f} of {limits[flavour]} to a file (goal 0.60)")
        lake.remove()
    finally:
        server.stop()


TICKS = """
CREATE TABLE tick (id bigint PRIMARY KEY, at timestamptz);
CREATE PROCEDURE ticks(count int, rate float8) LANGUAGE plpgsql AS $$
DECLARE began timestamptz := clock_timestamp();
BEGIN
  FOR n IN 1..count LOOP
    PERFORM pg_sleep(greatest(0, n / rate - extract(epoch FROM clock_timestamp() - began)));
    INSERT INTO tick VALUES (n, clock_timestamp());
    COMMIT;
  END LOOP;
END $$;
"""


def latency():
    """From the commit at the source until the row is in the table, as the files of the table's log tell."""
    server = PostgreSQL(LOGICAL)
    try:
        server.sql(TICKS)
        lake = Lake(postgres(server), "public.tick", lake={"commit_interval": "1s"})
        lake.run(rows=0)
        follower = lake.follow()
        count = RATE * SECONDS
        server.sql(f"CALL ticks({count}, {RATE})")
        deadline = time.monotonic() + 60
        while len(waits := seen(lake)) < count:
            if time.monotonic() > deadline or follower.poll() is not None:
                sys.exit(f"{len(waits)} of {count} rows came")
            time.sleep(0.2)
        follower.terminate()
        follower.wait()
        waits.sort()
        middle, late = waits[count // 2], waits[count * 95 // 100]
        print(f"{RATE} transactions/s, commits every second: visible after {middle:.2f} s, p95 {late:.2f} s (goal 2.00), at most {waits[-1]:.2f} s")
        lake.remove()
    finally:
        server.stop()


READ = """
import json, pathlib, sys
import pyarrow.parquet as pq
table = pathlib.Path(sys.argv[1])
for log in sorted((table / "_delta_log").glob("*.json")):
    for line in log.read_text().splitlines():
        add = json.loads(line).get("add")
        if add:
            for at in pq.read_table(table / add["path"], columns=["at"])["at"].cast("int64").to_pylist():
                print(log.stat().st_mtime - at / 1e6)
"""


def seen(lake):
    """How long each row of the table took."""
    python = HOME / "venv/bin/python"
    out = subprocess.run([python, "-c", READ, lake.table()], check=True, capture_output=True, text=True).stdout
    return [float(line) for line in out.splitlines()]


def memory():
    """Peak memory with a transaction of many rows."""
    server = Churning()
    try:
        lake = Lake(postgres(server), "public.item", memory="256MiB")
        lake.run(rows=0)
        server.sql(f"INSERT INTO item SELECT i, 'name ' || i, i / 7.0, now(), i % 1000, 'some note about ' || i % 4096 FROM generate_series(1, {ROWS}) i")
        wall, peak = lake.run(rows=ROWS)
        print(f"a transaction of {ROWS:,} rows, budget 256 MiB: peak {peak:.0f} MiB (goal 320), {ROWS / wall:,.0f} rows/s")
        lake.remove()
    finally:
        server.stop()


def each(server, statement):
    """Runs a statement for each of many tables, $ being its number; few in a transaction, which takes locks."""
    for first in range(0, TABLES, 500):
        last = min(first + 500, TABLES) - 1
        loop = f"FOR i IN {first}..{last} LOOP EXECUTE replace($sql${statement}$sql$, '$', i::text); END LOOP"
        server.sql(f"DO $do$ BEGIN {loop}; END $do$")


def tables():
    """Peak memory with very many tables in one feed."""
    server = PostgreSQL(LOGICAL + "max_locks_per_transaction=256\n")
    try:
        each(server, "CREATE TABLE t$ (id int PRIMARY KEY, v text, at timestamptz, n numeric(12,2))")
        each(server, "INSERT INTO t$ SELECT i, 'v' || i, now(), i / 4.0 FROM generate_series(1, 3) i")
        lake = Lake(postgres(server), "public.*", memory="256MiB")
        first, loading = lake.run(rows=3 * TABLES)
        for change in ["UPDATE t$ SET v = 'new' WHERE id = 1", "INSERT INTO t$ VALUES (9, 'x', now(), 1)", "DELETE FROM t$ WHERE id = 2"]:
            each(server, change)
        wall, peak = lake.run(rows=3 * TABLES)
        print(f"{TABLES:,} tables, budget 256 MiB: load {first:.0f} s, peak {loading:.0f} MiB; changes of each {wall:.0f} s, peak {peak:.0f} MiB (goal 320)")
        lake.remove()
    finally:
        server.stop()


CASES = {
    "append": append,
    "merge": merge,
    "mariadb": lambda: binlog("mariadb"),
    "mysql": lambda: binlog("mysql"),
    "latency": latency,
    "memory": memory,
    "tables": tables,
}

if __name__ == "__main__":
    for name in sys.argv[2:] or [name for name in CASES if name != "tables"]:
        CASES[name]()
