"""Runs the program as it was asked to, and kills it at a random moment on the first attempts at a slice, as a machine that dies does.

    killing.py PROGRAM ARGUMENT...      KILL_SECONDS=3: at most so late; KILL_ATTEMPTS=2: so many attempts are killed
                                        KILL_WORKERS=1: every fourth time Airflow's worker dies instead, and leaves the program behind
"""

import os
import random
import subprocess
import sys
import time

program, arguments = sys.argv[1], sys.argv[2:]
attempt = int(arguments[arguments.index("--run-id") + 1].rsplit(".", 1)[1]) if "--run-id" in arguments else 99
if "--slice" not in arguments or attempt > int(os.environ.get("KILL_ATTEMPTS", "2")):
    os.execv(program, [program, *arguments])
number = int(arguments[arguments.index("--slice") + 1])
worker = os.getppid()
child = subprocess.Popen([program, *arguments])
time.sleep(random.uniform(0, float(os.environ.get("KILL_SECONDS", "3"))))
if child.poll() is None:
    orphan = os.environ.get("KILL_WORKERS") == "1" and (number + attempt) % 4 == 0
    with open(os.environ["KILL_LOG"], "a", encoding="utf-8") as log:
        log.write(f"slice {number} attempt {attempt}{' worker' if orphan else ''}\n")
    if orphan and os.getppid() == worker:
        os.kill(worker, 9)
        child.wait()
    else:
        child.kill()
        child.wait()
        os.kill(os.getpid(), 9)
sys.exit(child.returncode)
