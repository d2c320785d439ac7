"""The operators. Each runs the program as a process, logs its progress, and hands its summary on as XCom."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.log import mask_secret

from ingest_airflow.process import Ended, Process, output, progress, run

#: Progress of one stream comes into the log this often.
PROGRESS_SECONDS = 10
#: Exit codes that another attempt does not change: configuration, credentials, checks.
PERMANENT = {2: "usage or configuration", 3: "refused by the source", 5: "a contract or a check is violated"}
#: Where fields of a connection go: fields of the source of the same meaning.
FIELDS = {"host": "HOST", "port": "PORT", "login": "USER", "password": "PASSWORD", "schema": "DATABASE"}


class _IngestOperator(BaseOperator):
    """What all operators have in common: which program, where, with which secrets.

    :param program: the program, by default ``ingest`` on ``PATH``.
    :param config: the configuration file; left out, ``ingest.yaml`` is searched from ``cwd`` upwards.
    :param overlay: the overlay ``ingest.NAME.yaml``.
    :param cwd: the folder in which it runs.
    :param conn_id: an Airflow connection whose host, port, login, password and schema become ``host``, ``port``, ``user``,
        ``password`` and ``database`` of the source; other fields go into the ``ingest`` object of its extra.
    :param secrets: variables of the environment by name: ``"conn:ID.password"``, ``"conn:ID.extra.KEY"`` or ``"var:KEY"``.
        ``${NAME}`` in ``ingest.yaml`` takes them. The values are masked in logs.
    :param environment: further variables, which are no secrets.
    """

    template_fields: Sequence[str] = ("source", "select", "exclude", "config", "overlay", "cwd", "environment")
    ui_color = "#d7e8e2"

    def __init__(
        self,
        *,
        source: str | None = None,
        select: Sequence[str] = (),
        exclude: Sequence[str] = (),
        program: str = "ingest",
        config: str | None = None,
        overlay: str | None = None,
        cwd: str | None = None,
        conn_id: str | None = None,
        secrets: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.source = source
        self.select = select
        self.exclude = exclude
        self.program = program
        self.config = config
        self.overlay = overlay
        self.cwd = cwd
        self.conn_id = conn_id
        self.secrets = secrets
        self.environment = environment
        self._process: Process | None = None
        self._said: dict[str, float] = {}

    # What runs.

    def _start(self, verb: Sequence[str], source: str | None) -> Process:
        arguments = [self.program]
        if self.config:
            arguments += ["--config", self.config]
        if self.overlay:
            arguments += ["--env", self.overlay]
        self._process = Process([*arguments, *verb], self._environment(source), self.cwd)
        return self._process

    def _streams(self) -> list[str]:
        words = ["--source", str(self.source)]
        for name in self.select:
            words += ["--select", name]
        for name in self.exclude:
            words += ["--exclude", name]
        return words

    def _run(self, verb: Sequence[str], source: str | None, run_id: str) -> Ended:
        words = ["run", *verb, "--run-id", run_id, "--progress", "json"]
        return run(self._start(words, source), self._on_event, self.log.warning)

    def _environment(self, source: str | None) -> dict[str, str]:
        environment = {**os.environ, **(self.environment or {})}
        # What selects streams is the task, not the worker's environment.
        for name in ("INGEST_SELECT", "INGEST_EXCLUDE", "INGEST_PLAN", "INGEST_SLICE", "INGEST_FINISH", "INGEST_PROGRESS"):
            environment.pop(name, None)
        for name, where in (self.secrets or {}).items():
            environment[name] = _secret(where)
        if self.conn_id:
            environment.update(_connection(self.conn_id, source or str(self.source)))
        return environment

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("type") == "progress":
            stream, now = event["stream"], time.monotonic()
            if now - self._said.get(stream, 0) < PROGRESS_SECONDS:
                return
            self._said[stream] = now
        if line := progress(event):
            self.log.info("%s", line)

    def _judge(self, ended: Ended) -> dict[str, Any]:
        """The summary of a run that is done; else the error that lets Airflow try again, or not."""
        if ended.code == 0:
            return ended.summary
        message = _message(ended)
        if ended.code in PERMANENT:
            raise AirflowFailException(f"{PERMANENT[ended.code]}: {message}")
        # 1 failed, 4 partial, 6 held by another run, 130 interrupted, or killed: the same command goes on.
        raise AirflowException(f"ended with {ended.code}: {message}")

    def on_kill(self) -> None:
        """Cancelled, timed out or cleared: the process commits what is whole, and ends."""
        if self._process is not None:
            self._process.stop()


class IngestRunOperator(_IngestOperator):
    """Loads what is new: ``ingest run``.

    :param time_limit: stop after this time with what is committed. The task is partial then, see ``on_partial``. Leave
        ``execution_timeout`` longer.
    :param on_partial: what becomes of a run that left work behind (exit code 4): ``"retry"`` fails the attempt,
        ``"wait"`` gives the worker back and goes on after ``retry_delay`` without using up an attempt, ``"accept"`` is done.
    :param interval: load the data interval of the DAG run: its rows are replaced, the position stays.
    """

    def __init__(
        self,
        *,
        source: str,
        time_limit: timedelta | None = None,
        on_partial: str = "retry",
        interval: bool = False,
        **kwargs: Any,
    ):
        super().__init__(source=source, **kwargs)
        if on_partial not in ("retry", "wait", "accept"):
            raise ValueError("on_partial is retry, wait or accept")
        self.time_limit = time_limit
        self.on_partial = on_partial
        self.interval = interval

    def execute(self, context: Any, event: Any = None) -> dict[str, Any]:
        words = self._streams()
        if self.time_limit:
            words += ["--timeout", f"{max(1, int(self.time_limit.total_seconds()))}s"]
        if self.interval:
            start, end = context["data_interval_start"], context["data_interval_end"]
            words += ["--interval-start", start.isoformat(), "--interval-end", end.isoformat()]
        ended = self._run(words, self.source, _run_id(context))
        if ended.code == 4 and self.on_partial == "wait":
            self.log.info("partial: goes on in %s", self.retry_delay)
            self.defer(trigger=TimeDeltaTrigger(self.retry_delay), method_name="execute")
        if ended.code == 4 and self.on_partial == "accept":
            return ended.summary
        return self._judge(ended)


class IngestPlanOperator(_IngestOperator):
    """Cuts the work into slices: ``ingest plan -o``. Gives the list of slices, for ``expand``; the plan is XCom ``plan``.

    :param slices: so many tasks at most; small tables give fewer.
    :param plan_path: a file that every worker can reach. Left out, the plan itself travels as XCom, which is fine up to some
        thousand slices. A plan holds no secret.
    """

    template_fields: Sequence[str] = (*_IngestOperator.template_fields, "plan_path")

    def __init__(self, *, source: str, slices: int, plan_path: str | None = None, **kwargs: Any):
        super().__init__(source=source, **kwargs)
        self.slices = slices
        self.plan_path = plan_path

    def execute(self, context: Any) -> list[int]:
        with tempfile.TemporaryDirectory(prefix="ingest-plan-") as folder:
            path = self.plan_path or os.path.join(folder, "plan.json")
            words = ["plan", *self._streams(), "--slices", str(self.slices), "-o", path, "--json"]
            code, text, errors = output(self._start(words, self.source), self.log.warning)
            if code != 0:
                self._judge(Ended(code, {}, errors))
            plan: str | dict[str, Any] = path
            if not self.plan_path:
                with open(path, encoding="utf-8") as file:
                    plan = json.load(file)
        answer = json.loads(text)
        for stream in answer.get("explained", []):
            self.log.info("%s", json.dumps(stream))
        context["ti"].xcom_push(key="plan", value=plan)
        context["ti"].xcom_push(key="summary", value={key: answer[key] for key in ("source", "parts", "slices", "streams")})
        # Of a small plan not all parts have something to read. No part at all = nothing is new: slices and finish are skipped.
        return answer["busy_parts"]


class _OfPlan(_IngestOperator):
    """Works on a plan: the path of one, or one that came as XCom."""

    template_fields: Sequence[str] = (*_IngestOperator.template_fields, "plan")

    def __init__(self, *, plan: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.plan = plan

    def _run_plan(self, words: Sequence[str], run_id: str) -> Ended:
        plan = self.plan
        if isinstance(plan, str):
            with open(plan, encoding="utf-8") as file:
                source = json.load(file)["source"]
            return self._run(["--plan", plan, *words], source, run_id)
        with tempfile.TemporaryDirectory(prefix="ingest-plan-") as folder:
            path = os.path.join(folder, "plan.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(plan, file)
            return self._run(["--plan", path, *words], plan["source"], run_id)


class IngestSliceOperator(_OfPlan):
    """Reads one slice of a plan: ``ingest run --plan --slice``. Any number of times, in any order, on any worker."""

    template_fields: Sequence[str] = (*_OfPlan.template_fields, "slice")

    def __init__(self, *, slice: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.slice = slice

    def execute(self, context: Any) -> dict[str, Any]:
        return self._judge(self._run_plan(["--slice", str(self.slice)], _run_id(context)))


class IngestFinishOperator(_OfPlan):
    """Makes all rows of a plan visible in one commit: ``ingest run --plan --finish``.

    :param wait: while slices are missing, give the worker back and look again each ``poll``, for this long: for slices that
        are read outside of Airflow, by an Indexed Job or a Batch array. Left out, missing slices fail the task.
    :param poll: how often it looks.
    """

    def __init__(self, *, wait: timedelta | None = None, poll: timedelta = timedelta(seconds=30), **kwargs: Any):
        super().__init__(**kwargs)
        self.wait = wait
        self.poll = poll

    def execute(self, context: Any, event: Any = None, since: float | None = None) -> dict[str, Any]:
        since = since or time.time()
        ended = self._run_plan(["--finish"], _run_id(context))
        waited = time.time() - since
        if ended.code == 4 and self.wait and waited < self.wait.total_seconds():
            self.log.info("slices are missing after %d s: looks again in %s", waited, self.poll)
            self.defer(trigger=TimeDeltaTrigger(self.poll), method_name="execute", kwargs={"since": since})
        return self._judge(ended)


def load_in_slices(*, source: str, slices: int, group_id: str | None = None, plan_path: str | None = None, **kwargs: Any):
    """Plan, mapped slices, finish: three tasks. Arguments of tasks go to all three; gives the last one.

    >>> load_in_slices(source="shop_db", select=["public.orders"], slices=8, retries=3)  # doctest: +SKIP
    """
    name = group_id or re.sub(r"\W", "_", source)
    streams = {key: kwargs.pop(key) for key in ("select", "exclude") if key in kwargs}
    plan = IngestPlanOperator(
        task_id=f"plan_{name}", source=source, slices=slices, plan_path=plan_path, **streams, **kwargs
    )
    parts = IngestSliceOperator.partial(task_id=f"slice_{name}", plan=plan.output["plan"], **kwargs).expand(slice=plan.output)
    finish = IngestFinishOperator(task_id=f"finish_{name}", plan=plan.output["plan"], **kwargs)
    parts >> finish
    return finish


def _run_id(context: Any) -> str:
    """The id of a run: which task of which DAG run, so that the history in the lake leads back here."""
    ti = context["ti"]
    index = getattr(ti, "map_index", -1)
    words = [ti.dag_id, ti.task_id, context["run_id"], *([str(index)] if index >= 0 else []), str(ti.try_number)]
    return re.sub(r"[^A-Za-z0-9_.:+-]", "_", ".".join(words))[-128:]


def _message(ended: Ended) -> str:
    found = [ended.summary.get("error")] + [stream.get("error") for stream in ended.summary.get("streams", [])]
    texts = [f"{error['message']} ({error.get('hint', error['kind'])})" for error in found if error]
    missing = {str(number) for stream in ended.summary.get("streams", []) for number in stream.get("missing_slices", [])}
    if missing:
        texts.append(f"missing slices: {', '.join(sorted(missing, key=int))}")
    return "; ".join(texts) or " ".join(ended.errors[-3:]) or "no reason was given"


def _secret(where: str) -> str:
    kind, _, name = where.partition(":")
    if kind == "var":
        from airflow.sdk import Variable

        value = Variable.get(name)
    elif kind == "conn":
        conn_id, _, attribute = name.partition(".")
        connection = BaseHook.get_connection(conn_id)
        if attribute.startswith("extra."):
            value = connection.extra_dejson.get(attribute.removeprefix("extra."))
        else:
            value = getattr(connection, attribute or "password")
    else:
        raise ValueError(f"a secret is written as conn:ID.FIELD or var:KEY, not as {kind!r}")
    if value is None:
        raise AirflowFailException(f"{where} has no value")
    mask_secret(str(value))
    return str(value)


def _connection(conn_id: str, source: str) -> dict[str, str]:
    connection = BaseHook.get_connection(conn_id)
    prefix = f"INGEST__SOURCES__{source.upper()}__"
    found = {FIELDS[name]: getattr(connection, name) for name in FIELDS if getattr(connection, name, None)}
    found.update({key.upper(): value for key, value in connection.extra_dejson.get("ingest", {}).items()})
    for name in ("PASSWORD", "API_KEY", "CLIENT_SECRET", "ACCESS_TOKEN", "PRIVATE_KEY"):
        if name in found:
            mask_secret(str(found[name]))
    return {prefix + key: str(value) for key, value in found.items()}
