"""A private PostgreSQL on loopback, for benchmarks and tests in Python."""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile

BIN = pathlib.Path(os.environ.get("INGEST_TEST_POSTGRES_BIN", "/usr/lib/postgresql/15/bin"))


class PostgreSQL:
    """A private PostgreSQL on loopback."""

    def __init__(self, settings=""):
        self.folder = tempfile.mkdtemp(prefix="ingest-bench-")
        self.user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.data = f"{self.folder}/data"
        self.call("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.psql = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        with open(f"{self.data}/postgresql.conf", "a") as file:
            file.write(f"listen_addresses='127.0.0.1'\nport={self.port}\nunix_socket_directories='{self.folder}'\n")
            file.write("fsync=off\nsynchronous_commit=off\nfull_page_writes=off\nmax_wal_size=8GB\n" + settings)
        self.call("pg_ctl", "-D", self.data, "-l", f"{self.folder}/log", "-w", "start")

    def call(self, name, *arguments):
        command = [str(BIN / name), *arguments]
        extra = {"user": self.user.pw_uid, "group": self.user.pw_gid} if self.user else {}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **extra)

    def sql(self, text):
        psql = [*self.psql, "-qAtX", "-v", "ON_ERROR_STOP=1"]
        return subprocess.run(psql, input=text, check=True, text=True, capture_output=True).stdout

    def stop(self):
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "stop")
        shutil.rmtree(self.folder)
