"""Tables as assets: `dagster dev -f definitions.py`, or `dagster asset materialize -f definitions.py --select '*'`.

`ingest` sees that Dagster started it, and reports by itself: what it logs, each table as a materialisation with its rows, bytes
and version, and its checks as asset checks. INGEST_PROGRAM and INGEST_PROJECT say which program, and where its ingest.yaml is.
"""

import os

import dagster as dg

PROGRAM = os.environ.get("INGEST_PROGRAM", "ingest")
PROJECT = os.environ.get("INGEST_PROJECT", ".")


@dg.multi_asset(
    specs=[dg.AssetSpec("orders", kinds={"deltalake"}), dg.AssetSpec("customers", kinds={"deltalake"})],
    check_specs=[dg.AssetCheckSpec("not_null_id", asset="orders")],
)
def shop(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):
    command = [PROGRAM, "run", "--source", "shop", "--run-id", f"dagster.{context.run.run_id}", "--progress", "off"]
    return pipes.run(command=command, cwd=PROJECT, context=context).get_results()


defs = dg.Definitions(
    assets=[shop],
    resources={"pipes": dg.PipesSubprocessClient()},
    schedules=[dg.ScheduleDefinition(name="hourly", target="*", cron_schedule="0 * * * *")],
)
