"""Files over SFTP, beside `sftp get` of the same files, in one run and in turns.

usage: sftp.py PROGRAM [large|small]

`large` is one CSV file of SIZE MB (1024), `small` are COUNT (5000) of 20 rows. Needs root, OpenSSH and the account that
`.ci/install` makes. Bytes are fetched to /dev/shm where there is one: the line is measured, not the disk.
"""

import json
import os
import pathlib
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from end_to_end import PROGRAM, RUNS, measure

USER = "ingest-test"
SIZE = int(os.environ.get("SIZE", "1024"))
COUNT = int(os.environ.get("COUNT", "5000"))
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Server:
    """OpenSSH on a free port of loopback, which serves a folder to an account by key."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ingest-bench-sftp-", dir=MEMORY))
        self.folder.chmod(0o755)
        self.served = self.folder / "served"
        self.served.mkdir()
        os.makedirs("/run/sshd", exist_ok=True)
        for name in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile {self.folder}/pid\n"
            f"AuthorizedKeysFile {self.folder}/client.pub\nStrictModes no\nUsePAM no\nUseDNS no\nMaxStartups 100\n"
            f"Subsystem sftp internal-sftp\nMatch User {USER}\nForceCommand internal-sftp\n"
        )
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", config])
        public = (self.folder / "host.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit("sshd does not start")

    def write(self, name, text):
        path = self.served / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))

    def give_away(self):
        user = pwd.getpwnam(USER)
        for path in [self.served, *self.served.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid)

    def get(self, pattern):
        """Fetches by OpenSSH's own client."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as target:
            batch = pathlib.Path(target) / "batch"
            batch.write_text(f"get -r {self.served}/{pattern} {target}/\n")
            return measure(
                ["sftp", "-q", "-P", str(self.port), "-i", self.folder / "client", "-b", batch,
                 "-o", f"UserKnownHostsFile={self.folder}/known_hosts", f"{USER}@127.0.0.1"]
            )

    def ingest(self, pattern):
        """Loads into a new lake."""
        return load(pattern, {
            "connector": "sftp", "host": "127.0.0.1", "port": self.port, "user": USER, "path": str(self.served),
            "private_key": (self.folder / "client").read_text(), "known_hosts": str(self.folder / "known_hosts"),
        })

    def local(self, pattern):
        """Loads the same files from their folder."""
        return load(pattern, {"connector": "files", "path": str(self.served)})

    def cpu(self):
        """CPU seconds of the connections that have ended."""
        process = pathlib.Path(f"/proc/{self.process.pid}")
        for _ in range(100):
            if not (process / f"task/{self.process.pid}/children").read_text().strip():
                break
            time.sleep(0.05)
        fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


def rows(first, count):
    return "".join(f"{n},customer {n * 2654435761 % 4294967296:08x},{n % 10000}.{n % 100:02},2024-01-{n % 28 + 1:02}\n"
                   for n in range(first, first + count))


def load(pattern, source):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        source = {**source, "files": {"t": {"path": pattern, "format": "csv"}}}
        (pathlib.Path(folder) / "ingest.yaml").write_text(json.dumps({"sources": {"drop": source}}))
        return measure([PROGRAM, "run", "--source", "drop", "--progress", "off"], cwd=folder)


def compare(server, name, fetched, loaded, size):
    runs = {"sftp get": [], "ingest run": []}
    for _ in range(RUNS):
        runs["sftp get"].append(server.get(fetched))
        runs["ingest run"].append(server.ingest(loaded))
    best = {what: {key: statistics.median(run[key] for run in of) for key in ("wall", "cpu")} for what, of in runs.items()}
    for what, run in best.items():
        print(f"{name}: {what}: {run['wall']:.2f} s, {size / run['wall'] / 1e6:.0f} MB/s, {run['cpu']:.2f} s CPU")
    print(f"{name}: rate of ingest to rate of sftp get: {best['sftp get']['wall'] / best['ingest run']['wall']:.2f}")
    return best


def bound(server, name, loaded, size, best):
    """What the work of all processes allows, were every core busy all the time."""
    before = server.cpu()
    server.ingest(loaded)
    served = server.cpu() - before
    local = statistics.median(server.local(loaded)["cpu"] for _ in range(RUNS))
    get, ingest = (best[what]["cpu"] for what in ("sftp get", "ingest run"))
    a_gb = [seconds / size * 1e9 for seconds in (served, get, ingest, local)]
    print("{}: CPU a GB: server {:.1f} s, sftp get {:.1f} s, ingest {:.1f} s (from a folder {:.1f} s)".format(name, *a_gb))
    least = (served + ingest) / os.cpu_count()
    print(f"{name}: with every core at work at most {best['sftp get']['wall'] / least:.2f} of sftp get")


def main():
    wanted = sys.argv[2:] or ["large", "small"]
    server = Server()
    try:
        if "large" in wanted:
            block = rows(0, 20_000)
            times = max(1, SIZE * 1_000_000 // len(block))
            server.write("large/t.csv", "id,name,amount,day\n" + block * times)
        if "small" in wanted:
            for n in range(COUNT):
                server.write(f"small/{n:06}.csv", "id,name,amount,day\n" + rows(n * 20, 20))
        server.give_away()
        for name in wanted:
            size = sum(path.stat().st_size for path in (server.served / name).iterdir())
            best = compare(server, name, name, f"{name}/*.csv", size)
            if name == "large":
                bound(server, name, f"{name}/*.csv", size, best)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
