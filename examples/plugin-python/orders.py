#!/usr/bin/env python3
"""A connector for ingest in Python: the protocol is docs/plugins.md, the source is arithmetic."""
import base64, json, struct, sys, threading
from decimal import Decimal
import pyarrow as pa

ORDERS = pa.schema([
    pa.field("id", pa.int64(), False), ("customer", pa.string()), ("total", pa.decimal128(12, 2)), ("paid", pa.bool_()),
    ("at", pa.timestamp("us", "UTC")), ("weight", pa.float64()), ("day", pa.date32()), ("tags", pa.list_(pa.string()))])
CHANGES = pa.schema([pa.field("id", pa.int64(), False), ("value", pa.int64())])
FEED = CHANGES.append(pa.field("_ingest_op", pa.string())).append(pa.field("_ingest_seq", pa.string()))
NUMBER = {"type": "integer", "minimum": 0}
SPEC = {
    "name": "orders", "version": "1.0.0", "title": "Orders", "docs": "Orders that are computed.", "state_version": 1,
    "capabilities": {"modes": ["full", "incremental"], "deletes": "events", "replay": "always", "parallel": 4,
                     "portable": True, "projection": False, "filter": False},
    "config": {"type": "object", "additionalProperties": False, "properties": {
        "rows": NUMBER, "changes": NUMBER, "page_size": NUMBER, "password": {"type": "string", "writeOnly": True}}}}
pipe, turn, calls, config = sys.stdout.buffer, threading.Lock(), {}, {}
sys.stdout = sys.stderr  # a print must not get between the frames

def ipc(schema, batch=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        if batch is not None:
            stream.write(batch)
    return sink.getvalue().to_pybytes()

def write(message, data=None):
    bodies = [json.dumps(message).encode()] + ([data] if data else [])
    with turn:
        for kind, body in enumerate(bodies):
            pipe.write(struct.pack("<IB", len(body), kind) + body)
        pipe.flush()
    return sum(map(len, bodies))

class Call:
    def __init__(self, number, credit=0):
        self.number, self.credit, self.cancelled, self.changed = number, credit, False, threading.Condition()

    def event(self, kind, data=None, **fields):
        with self.changed:
            self.changed.wait_for(lambda: self.credit > 0 or self.cancelled)
            if self.cancelled:
                raise InterruptedError("the call was cancelled")
            self.credit -= write({"type": kind, "call": self.number, **fields}, data)

def schema(call, message):
    wanted = [("orders", ORDERS, "full"), ("changes", CHANGES, "incremental")]
    return "streams", {"streams": [
        {"name": name, "schema": base64.b64encode(ipc(schema)).decode(), "key": ["id"], "modes": [mode]}
        for name, schema, mode in wanted]}

def plan(call, message):
    slices, then, rows = [], {}, config.get("rows", 1000)
    for selected in message["request"]["streams"]:
        name = selected["stream"]["name"]
        if name == "changes":
            slices.append({"id": name, "streams": [name], "shape": "feed", "work": {"start": 0, "end": 0}})
            if not selected["positions"]:
                then[name] = {name: position(0, True)}
        else:
            for start in range(0, rows, rows // 4 + 1):
                work = {"start": start, "end": min(start + rows // 4 + 1, rows)}
                slices.append({"id": f"orders {start}", "streams": [name], "shape": "window", "work": work})
    return "plan", {"plan": {"slices": slices, "then": then}}

def position(number, feed):
    seq = {"seq": f"{number - 1:016}"} if feed else {}
    return {"v": 1, "at": {"next": number, "feed": feed}, **seq}

def extract(call, message):
    part, start = message["slice"], message["from"]
    stream, feed = part["streams"][0], part["shape"] == "feed"
    end = config.get("changes", 100) if feed else part["work"]["end"]
    number, page = start["at"]["next"] if start else part["work"]["start"], config.get("page_size", 250)
    while number < end:
        numbers = range(number, min(number + page, end))
        columns, schema = (list(zip(*map(change if feed else order, numbers))), FEED if feed else ORDERS)
        batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema)
        call.event("rows", ipc(schema, batch), stream=stream)
        number = numbers[-1] + 1
        call.event("mark", position=position(number, feed))
    return "done", {"end": "caught_up" if feed else "complete"}

def order(n):
    return (n, f"Zoë {n % 97}", Decimal(n * 37 % 100000) / 100, None if n % 5 == 0 else n % 2 == 0,
            1700000000000000 + n * 1234567, n / 8, 19000 + n % 1000, None if n % 7 == 0 else [f"t{n % 3}"] * (n % 4))

def change(n):
    return n % 10, n, "IUD"[n % 3], f"{n:016}"

ANSWERS = {"open": lambda call, message: ("opened", config.update(message["config"]) or {}), "schema": schema, "plan": plan,
           "check": lambda *_: ("problems", {"problems": []}), "extract": extract, "checkpoint": lambda *_: ("ok", {})}

def answer(call, message):
    try:
        kind, fields = ANSWERS[message["type"]](call, message)
    except Exception as error:
        kind = "Cancelled" if isinstance(error, InterruptedError) else "Unexpected"
        kind, fields = "error", {"kind": kind, "message": f"cannot {message['type']}", "causes": [repr(error)]}
    calls.pop(call.number)
    write({"type": kind, "call": call.number, **fields})

while header := sys.stdin.buffer.read(5):
    message = json.loads(sys.stdin.buffer.read(struct.unpack("<I", header[:4])[0]))
    call = calls.get(message.get("call"))
    if message["type"] in ("hello", "ping"):
        write({"type": "hello", "protocol": 1, "spec": SPEC} if message["type"] == "hello" else {"type": "pong"})
    elif message["type"] not in ("credit", "cancel"):
        call = calls[message["call"]] = Call(message["call"], message.get("credit", 0))
        threading.Thread(target=answer, args=(call, message), daemon=True).start()
    elif call:
        with call.changed:
            call.credit, call.cancelled = call.credit + message.get("bytes", 0), message["type"] == "cancel"
            call.changed.notify_all()
