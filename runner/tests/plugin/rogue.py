#!/usr/bin/env python3
"""A plug-in that does what its script says: for each kind of request a list of steps."""
import base64, json, os, pathlib, signal, struct, sys, time
steps = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())
pipe, source = sys.stdout.buffer, sys.stdin.buffer
started = pathlib.Path(__file__).with_suffix(".starts")
started.write_text(str(int(started.read_text()) + 1 if started.exists() else 1))


def frame(kind, body):
    pipe.write(struct.pack("<IB", len(body), kind) + body)


while header := source.read(5):
    message = json.loads(source.read(struct.unpack("<I", header[:4])[0]))
    if message["type"] == "ping":
        frame(0, b'{"type": "pong"}')
    for step in steps.get(message["type"], []):
        times = step.get("times", 1)
        while times:
            times -= 1
            if "json" in step:
                body = {"call": message["call"], **step["json"]} if "call" in message else step["json"]
                frame(0, json.dumps(body).encode())
            if "arrow" in step:
                frame(1, base64.b64decode(step["arrow"]))
            if "raw" in step:
                pipe.write(base64.b64decode(step["raw"]))
        if "stderr" in step:
            print(step["stderr"], file=sys.stderr, flush=True)
        if "environment" in step:
            pathlib.Path(__file__).with_suffix(".env").write_text(json.dumps(dict(os.environ)))
        if "request" in step:
            print("it said " + json.dumps(message), file=sys.stderr, flush=True)
        pipe.flush()
        if "exit" in step:
            os._exit(step["exit"])
        if "kill" in step:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in step:
            time.sleep(1000)
        if "deaf" in step:
            signal.pause()
    pipe.flush()
