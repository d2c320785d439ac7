"""Airflow operators for ``ingest``: plan, mapped slices, finish; or one plain run.

``ingest`` is the worker: it reads, writes and commits. Airflow says when, where, and how often again.
"""

from ingest_airflow.operators import (
    IngestFinishOperator,
    IngestPlanOperator,
    IngestRunOperator,
    IngestSliceOperator,
    load_in_slices,
)

__all__ = [
    "IngestFinishOperator",
    "IngestPlanOperator",
    "IngestRunOperator",
    "IngestSliceOperator",
    "load_in_slices",
]
