"""Starting, listening to and ending processes. Needs no Airflow: `python -m unittest`."""

import os
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

# The package itself wants Airflow; this module of it does not.
import importlib.util

spec = importlib.util.spec_from_file_location("ingest_process", Path(__file__).parent.parent / "src/ingest_airflow/process.py")
process = importlib.util.module_from_spec(spec)
sys.modules["ingest_process"] = process
spec.loader.exec_module(process)


def python(text):
    return process.Process([sys.executable, "-u", "-c", text], dict(os.environ))


class Processes(unittest.TestCase):
    def test_events_are_handed_on_and_the_last_is_the_summary(self):
        events, said = [], []
        ended = process.run(
            python(
                "import sys, json\n"
                "print(json.dumps({'type': 'warning', 'message': 'm'}))\n"
                "print('no event')\n"
                "print('oops', file=sys.stderr)\n"
                "print(json.dumps({'type': 'run_finished', 'exit_code': 4}))\n"
                "sys.exit(4)\n"
            ),
            events.append,
            said.append,
        )
        self.assertEqual((ended.code, ended.summary), (4, {"type": "run_finished", "exit_code": 4}))
        self.assertEqual([event["type"] for event in events], ["warning", "run_finished"])
        self.assertEqual((sorted(said), ended.errors), (["no event", "oops"], ["oops"]))

    def test_a_flood_on_stderr_does_not_stop_the_process(self):
        ended = process.run(
            python("import sys\nfor i in range(20000): print('x' * 100, file=sys.stderr)"), lambda _: None, lambda _: None
        )
        self.assertEqual((ended.code, len(ended.errors)), (0, process.KEPT_LINES))

    def test_stopping_ends_the_process_and_its_children(self):
        running = python(
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid)\n"
            "time.sleep(600)\n"
        )
        child = int(next(running.lines()))
        started = time.monotonic()
        running.stop()
        self.assertLess(time.monotonic() - started, process.GRACE_SECONDS)
        self.assertIsNotNone(running.child.poll())
        self.assertTrue(gone(child), "a child was left behind")

    def test_an_exception_while_listening_ends_the_process(self):
        running = python("import time\nprint('{\"type\": \"heartbeat\"}')\ntime.sleep(600)")

        def raises(_):
            raise TimeoutError("as Airflow's time-out does")

        with self.assertRaises(TimeoutError):
            process.run(running, raises, lambda _: None)
        self.assertIsNotNone(running.child.poll())

    def test_another_thread_may_stop_it(self):
        running = python("import time\nprint('{\"type\": \"heartbeat\"}')\ntime.sleep(600)")
        heard = threading.Event()
        threading.Thread(target=lambda: (heard.wait(), running.stop())).start()
        ended = process.run(running, lambda _: heard.set(), lambda _: None)
        self.assertEqual(ended.code, -15)

    def test_every_event_but_unknown_ones_has_a_line(self):
        self.assertIsNone(process.progress({"type": "new", "time": "", "run_id": ""}))
        self.assertEqual(
            process.progress({"type": "progress", "stream": "a", "rows_read": 1200, "slices_done": 1, "slices": 4}),
            "a: 1,200 rows read, slice 1 of 4",
        )


def gone(pid, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    unittest.main()
