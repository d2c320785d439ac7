"""One table, cut into slices that run wherever Airflow has workers, and made visible in one commit.

    plan_shop  ->  slice_shop [0]  ->  finish_shop
                   slice_shop [1]
                   ...

Slices may fail, be killed and be tried again: each goes on where it stood, and nothing comes twice.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG
from ingest_airflow import load_in_slices

with DAG(
    dag_id="ingest_orders",
    schedule="@hourly",
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 4,
        "retry_delay": timedelta(seconds=float(os.environ.get("INGEST_RETRY_SECONDS", "30"))),
        "execution_timeout": timedelta(hours=1),
    },
    doc_md=__doc__,
) as dag:
    load_in_slices(
        source="shop",
        select=["orders"],
        slices=8,
        # Host, port, user and password of the source come from this connection, and `${SHOP_TOKEN}` in ingest.yaml from that.
        # conn_id="shop_db",
        # secrets={"SHOP_TOKEN": "conn:shop_api.password"},
        cwd=os.environ.get("INGEST_PROJECT", "/opt/ingest"),
        program=os.environ.get("INGEST_PROGRAM", "ingest"),
    )
