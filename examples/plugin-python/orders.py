#!/usr/bin/env python3
"""A connector for ingest in Python: the protocol is docs/plugins.md, the source is arithmetic."""
import base64, decimal, json, struct, sys, threading
import pyarrow as pa
ORDERS = pa.schema([
    pa.field("id", pa.int64(), False), ("customer", pa.string()), ("total", pa.decimal128(12, 2)), ("paid", pa.bool_()),
    ("at", pa.timestamp("us", "UTC")), ("weight", pa.float64()), ("day", pa.date32()), ("tags", pa.list_(pa.string()))])
SPEC = {
    "name": "orders", "version": "1.0.0", "title": "Orders", "docs": "Orders that are computed.", "state_version": 1,
    "capabilities": {"modes": ["full"], "deletes": "unseen", "replay": "always", "parallel": 4,
                     "portable": True, "projection": False, "filter": False},
    "config": {"type": "object", "additionalProperties": False, "properties": {
        "rows": {"type": "integer", "minimum": 0, "description": "How many orders there are."},
        "page_size": {"type": "integer", "minimum": 1, "description": "Rows of a batch."},
        "password": {"type": "string", "writeOnly": True, "description": "The password of the shop."}}}}
config, calls, turn, pipe = {"rows": 1000, "page_size": 250}, {}, threading.Lock(), sys.stdout.buffer
sys.stdout = sys.stderr  # a print must not get between the frames

class Refused(Exception): """Its arguments: a kind of error, what was attempted, what to do next."""

class Call:
    def __init__(self, message):
        self.id, self.credit, self.cancelled = message["call"], message.get("credit", 0), False
        self.changed = threading.Condition()

    def answer(self, message):
        try:
            kind, fields = getattr(self, message["type"])(message)
        except Exception as error:
            other = "CheckpointInvalid" if type(error) in (KeyError, TypeError) else "Unexpected"
            known = error.args if isinstance(error, Refused) else (other, repr(error), "report it, or reset the state")
            kind, fields = "error", dict(zip(("kind", "message", "hint"), known))
        del calls[self.id]
        write({"type": kind, "call": self.id, **fields})

    def event(self, kind, *data, **fields):
        with self.changed:
            self.changed.wait_for(lambda: self.credit > 0 or self.cancelled)
            if self.cancelled:
                raise Refused("Cancelled", "the call was cancelled", "")
            self.credit -= write({"type": kind, "call": self.id, **fields}, *data)

    def open(self, message):
        config.update(message["config"])
        if config.get("password", "open sesame") != "open sesame":
            raise Refused("Unauthenticated", "the password is wrong", "ask the shop for it")
        return "opened", {}

    check = lambda self, message: ("problems", {"problems": []})
    checkpoint = lambda self, message: ("ok", {})
    def schema(self, message):
        schema = base64.b64encode(ipc()).decode()
        return "streams", {"streams": [{"name": "orders", "schema": schema, "key": ["id"], "modes": ["full"]}]}

    def plan(self, message):
        step = config["rows"] // 4 + 1
        return "plan", {"plan": {"slices": [
            {"id": f"orders {start}", "streams": ["orders"], "shape": "window",
             "work": {"start": start, "end": min(start + step, config["rows"])}}
            for start in range(0, config["rows"], step)]}}

    def extract(self, message):
        work, since = message["slice"]["work"], message["from"]
        if message["slice"]["streams"] != ["orders"]: raise Refused("NotFound", "no such stream", "see discover")
        for start in range(since["at"]["next"] if since else work["start"], work["end"], config["page_size"]):
            columns = zip(*map(order, range(start, end := min(start + config["page_size"], work["end"]))))
            batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, ORDERS)], schema=ORDERS)
            self.event("rows", ipc(batch), stream="orders")
            self.event("mark", position={"v": 1, "at": {"next": end, "feed": False}})
        return "done", {"end": "complete"}

def order(n):
    return (n, f"Zoë {n % 97}", decimal.Decimal(n * 37 % 100000) / 100, None if n % 5 == 0 else n % 2 == 0,
            1700000000000000 + n * 1234567, n / 8, 19000 + n % 1000, None if n % 7 == 0 else [f"t{n % 3}"] * (n % 4))

def ipc(*batches):
    with pa.ipc.new_stream(sink := pa.BufferOutputStream(), ORDERS) as stream:
        [stream.write(batch) for batch in batches]
    return sink.getvalue().to_pybytes()

def write(message, *data):
    bodies = [json.dumps(message).encode(), *data]
    with turn:
        pipe.write(b"".join(struct.pack("<IB", len(body), kind) + body for kind, body in enumerate(bodies)))
        pipe.flush()
    return sum(map(len, bodies))

while header := sys.stdin.buffer.read(5):
    message = json.loads(sys.stdin.buffer.read(struct.unpack("<I", header[:4])[0]))
    call = calls.get(message.get("call"))
    if message["type"] in ("hello", "ping"):
        write({"type": "hello", "protocol": 1, "spec": SPEC} if message["type"] == "hello" else {"type": "pong"})
    elif message["type"] not in ("credit", "cancel"):
        call = calls[message["call"]] = Call(message)
        threading.Thread(target=call.answer, args=(message,), daemon=True).start()
    elif call:
        with call.changed:
            call.credit, call.cancelled = call.credit + message.get("bytes", 0), message["type"] == "cancel"
            call.changed.notify_all()
