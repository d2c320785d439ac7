"""Prints the rows of a Delta table as JSON, one a line, with the values that oracle.rs calls canonical."""
import base64
import datetime
import decimal
import json
import math
import os
import sys


def canonical(value):
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        text = value.strftime("%H:%M:%S.%f")
        day = f"{value.year:04}-{value.month:02}-{value.day:02}"
        return f"{day}T{text}" + ("Z" if value.tzinfo else "")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: canonical(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(inner) for inner in value]
    raise TypeError(f"no canonical form of {type(value)}")


def with_deltalake(table):
    from deltalake import DeltaTable

    options = {k.lower(): v for k, v in os.environ.items() if k.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
    return DeltaTable(table, storage_options=options or None).to_pyarrow_dataset().to_batches(batch_size=4096)


def with_duckdb(table):
    import duckdb

    import duckdb_extension_delta

    connection = duckdb.connect()
    version = f"v{duckdb.__version__}"

    def load(package, name):
        folder = os.path.join(os.path.dirname(package.__file__), "extensions", version)
        connection.load_extension(os.path.join(folder, f"{name}.duckdb_extension"))

    # It would be drawn between the rows once a query takes two seconds.
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET autoinstall_known_extensions = false")
    if table.startswith("s3://"):
        import duckdb_extension_httpfs

        load(duckdb_extension_httpfs, "httpfs")
        secret = {
            "KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
            "SECRET": os.environ["AWS_SECRET_ACCESS_KEY"],
            "REGION": os.environ["AWS_REGION"],
            "ENDPOINT": os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
            "URL_STYLE": "path",
        }
        fields = ", ".join(f"{name} '{value}'" for name, value in secret.items())
        connection.execute(f"CREATE SECRET (TYPE s3, USE_SSL false, {fields})")
    load(duckdb_extension_delta, "delta")
    path = table.replace("'", "''")
    return connection.execute(f"SELECT * FROM delta_scan('{path}')").to_arrow_reader(4096)


def main():
    reader, table = sys.argv[1:]
    batches = with_duckdb(table) if reader == "duckdb" else with_deltalake(table)
    for batch in batches:
        for row in batch.to_pylist():
            print(json.dumps({name: canonical(value) for name, value in row.items()}, ensure_ascii=False))


main()
