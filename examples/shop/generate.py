"""Makes the data of this example: always the same, from a fixed seed.

    python3 generate.py        needs pyarrow, for products.parquet

An order line that was sent back has a second line with a negative quantity, as a till would print it. Names, notes and
missing values are what real exports hold: accents, other scripts, quotes, commas, line breaks, empty fields.
"""

import csv
import json
import random
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

random.seed(20240229)
DATA = Path(__file__).parent / "data"
START = datetime(2024, 1, 2, 8, 0, tzinfo=timezone.utc)
CENT = Decimal("0.01")

FIRST = ["Anna", "Zoë", "José", "Łukasz", "Søren", "Chloé", "Müge", "Nikolás", "Ingrid", "Oluwaseun", "Aoife", "Mihály",
         "Mei", "李娜", "Дмитрий", "Γιώργος", "さくら", "فاطمة", "Bjørn", "Noor"]
LAST = ["Keller", "O'Brien", "García Márquez", "Nowak", "Sørensen", "Dupont", "Öztürk", "van der Berg", "Łuczak", "Adeyemi",
        "Ní Dhomhnaill", "Szabó", "王", "Иванова", "Παπαδόπουλος", "田中", "حداد", "Müller-Lüdenscheidt", "D'Angelo", "Smith"]
CITIES = [("Zürich", "8001", "CH"), ("Łódź", "90-001", "PL"), ("São Paulo", "01310-100", "BR"), ("Århus", "8000", "DK"),
          ("Galway", "H91 X0T5", "IE"), ("Besançon", "25000", "FR"), ("東京", "100-0001", "JP"), ("Αθήνα", "105 57", "GR"),
          ("Köln", "50667", "DE"), ("Portland", "97201", "US")]
GOODS = {
    "kitchen": ["Enamel mug", "Cast-iron pan 26 cm", "Chef's knife", "Café press", "Jar, 1 l", "Linen tea towel"],
    "garden": ["Hand trowel", "Rose shears", "Watering can \"Nile\"", "Seed tray", "Jute twine 50 m", "Bird feeder"],
    "paper": ["Notebook A5, dotted", "Fountain pen", "Ink – midnight blue", "Envelope C6 (25)", "Desk calendar", "Pencil 2B"],
    "wool": ["Scarf", "Blanket 130×200", "Slippers", "Mittens", "Sock yarn 100 g", "Beanie"],
}
COLOURS = ["", "oat", "slate", "moss", "rust"]
NOTES = ["", "", "", "", "", "Please ring twice", "Gift, no invoice in the parcel", "Leave with neighbour \"Ünal\", 2nd floor",
         "für Oma 🎁", "line one\nline two", "00420 is the door code", "null", "=1+1"]


def when(days, spread=0):
    return START + timedelta(days=days, seconds=random.randrange(86_400 * (spread + 1)))


def iso(moment):
    return moment.isoformat().replace("+00:00", "Z")


def products():
    rows = []
    for category, names in GOODS.items():
        for name in names:
            for colour in COLOURS:
                number = len(rows) + 1
                launched = date(2019, 1, 1) + timedelta(days=random.randrange(1_800))
                rows.append({
                    "product_id": f"{category[:2].upper()}-{number:04d}",
                    "name": f"{name}, {colour}" if colour else name,
                    "category": category,
                    "price": (Decimal(random.randrange(250, 9_000)) / 100).quantize(CENT),
                    "weight_grams": None if random.random() < 0.08 else random.randrange(20, 4_000),
                    "tags": random.sample(["new", "gift", "organic", "made in EU", "last chance"], random.randrange(0, 3)),
                    "discontinued": random.random() < 0.06,
                    "launched": launched,
                    "updated_at": when(random.randrange(60)),
                })
    schema = pa.schema([
        ("product_id", pa.string()), ("name", pa.string()), ("category", pa.string()), ("price", pa.decimal128(10, 2)),
        ("weight_grams", pa.int32()), ("tags", pa.list_(pa.string())), ("discontinued", pa.bool_()),
        ("launched", pa.date32()), ("updated_at", pa.timestamp("us", tz="UTC")),
    ])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), DATA / "products.parquet", compression="zstd")
    return rows


def customers():
    rows = []
    for number in range(1, 251):
        first, last = random.choice(FIRST), random.choice(LAST)
        city, code, country = random.choice(CITIES)
        row = {
            "customer_id": 10_000 + number,
            "name": f"{last} {first}" if ord(first[0]) > 0x3000 else f"{first} {last}",
            "email": f"customer{number}@example.com",
            "phone": None if random.random() < 0.25 else f"+{random.randrange(1, 99)} {random.randrange(10**8, 10**9)}",
            "address": {"street": f"Street {random.randrange(1, 200)}", "city": city, "postal_code": code, "country": country},
            "marketing_consent": random.random() < 0.4,
            "created_at": iso(when(random.randrange(-700, 60))),
        }
        if random.random() < 0.3:
            row["loyalty_points"] = random.randrange(0, 5_000)
        if country in ("CH", "DE") and random.random() < 0.2:
            row["vat_id"] = f"{country}{random.randrange(10**8, 10**9)}"
        rows.append(row)
    with open(DATA / "customers.ndjson", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return rows


def orders(catalogue, people):
    header = ["order_id", "line", "customer_id", "product_id", "quantity", "unit_price", "discount", "total", "currency",
              "status", "ordered_at", "shipped_at", "coupon", "note"]
    rows = []
    for number in range(1, 251):
        buyer = random.choice(people)
        ordered = when(number * 60 / 250)
        status = random.choices(["delivered", "shipped", "paid", "cancelled", "refunded"], [60, 12, 10, 8, 10])[0]
        shipped = None if status in ("paid", "cancelled") else ordered + timedelta(hours=random.randrange(4, 90))
        coupon = random.choice(["", "", "", "", "SPRING24", "WELCOME10"])
        note = random.choice(NOTES)
        line = 0
        for product in random.sample(catalogue, random.choice([1, 1, 1, 2, 2, 3])):
            quantity = random.choice([1, 1, 1, 2, 3])
            gross = product["price"] * quantity
            off = (gross / 10).quantize(CENT) if coupon else None
            line += 1
            base = [product["product_id"]]
            total = gross - (off or 0)
            rows.append([f"SO-{number:05d}", line, buyer["customer_id"], *base, quantity, product["price"], off, total, "EUR",
                         status, iso(ordered), iso(shipped) if shipped else None, coupon, note])
            if status == "refunded":
                line += 1
                back = iso(ordered + timedelta(days=random.randrange(5, 20)))
                rows.append([f"SO-{number:05d}", line, buyer["customer_id"], *base, -quantity, product["price"],
                             -off if off else None, -total, "EUR", status, back, None, coupon, "sent back"])
    with open(DATA / "orders.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
    return rows


DATA.mkdir(exist_ok=True)
catalogue, people = products(), customers()
lines = orders(catalogue, people)
print(f"{len(catalogue)} products, {len(people)} customers, {len(lines)} order lines")
