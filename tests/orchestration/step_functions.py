"""Runs a state machine of the Step Functions example to its end: its states by moto's interpreter, its Batch jobs as processes.

    step_functions.py MACHINE PROGRAM FOLDER SELECT SLICES [SLICE]

moto interprets the machine and keeps queues and jobs; it runs no jobs, so that this does: the command of a job in FOLDER, with the
index of an array's child and the retries that the machine asks for. The first attempt at each slice is killed in mid-run. Where
SLICE is given, every attempt at that one is. Prints how the execution ended, and how often each slice was tried.
"""

import collections
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1", MOTO_ALLOW_NONEXISTENT_REGION="true")

import boto3
from moto import mock_aws
from moto.batch_simple.models import BatchSimpleBackend
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_batch import StateTaskServiceBatch as Service

PATH, PROGRAM, FOLDER, SELECT, SLICES = sys.argv[1:6]
DOOMED = sys.argv[6] if len(sys.argv) > 6 else None
MACHINE = json.loads(Path(PATH).read_text(encoding="utf-8"))
ROLE = "arn:aws:iam::123456789012:role/ingest"

tries = collections.Counter()


def hurry(value):
    """The machine, with pauses that a test can wait for."""
    if isinstance(value, dict):
        quick = {"IntervalSeconds": 1, "BackoffRate": 1}
        return {key: quick.get(key, hurry(inner)) for key, inner in value.items()}
    return [hurry(inner) for inner in value] if isinstance(value, list) else value


def attempt(command, index):
    """One attempt at a job: its exit code as a container has it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("INGEST_")}
    if index is not None:
        environment["AWS_BATCH_JOB_ARRAY_INDEX"] = str(index)
    number = command[command.index("--slice") + 1] if "--slice" in command else index
    if number is not None:
        tries[str(number)] += 1
        if tries[str(number)] == 1 or str(number) == DOOMED:
            environment["INGEST_FAILPOINT"] = "file_closed"
    # The image's program is called `ingest`.
    assert command[0] == "ingest", command
    code = subprocess.run([PROGRAM, *command[1:]], cwd=FOLDER, env=environment, stdout=sys.stderr, check=False).returncode
    return 128 - code if code < 0 else code


def works(command, index):
    """A job with its retries; whether it succeeded."""
    strategy = MACHINE["States"]["Slices"].get("Parameters", {}).get("RetryStrategy") if index is not None else None
    for _ in range(strategy["Attempts"] if strategy else 1):
        code = attempt(command, index)
        if code == 0:
            return True
        rules = strategy["EvaluateOnExit"] if strategy else []
        if any(rule["Action"] == "EXIT" and rule["OnExitCode"] == str(code) for rule in rules):
            return False
    return False


def run(self, include_start_attempt, job):
    """In place of what marks a job as done when it is submitted."""
    self.backend._jobs[job.job_id] = job
    job.status = "RUNNING"

    def work():
        if "size" in job.array_properties:
            while job._child_jobs is None or not all(child.job_stopped for child in job._child_jobs):
                time.sleep(0.02)
            job._mark_stopped(success=all(child.status == "SUCCEEDED" for child in job._child_jobs))
        else:
            succeeded = False
            try:
                succeeded = works(job._get_container_property("command", []), job.array_properties.get("index"))
            finally:
                job._mark_stopped(success=succeeded)

    threading.Thread(target=work, daemon=True).start()


BatchSimpleBackend._mark_job_as_finished = run


# Step Functions writes the fields of Batch with a capital, Batch without; this moto has what translates them, and does not call it.


def request(self, parameters, boto_service_name=None, service_action_name=None):
    self._to_boto_request(parameters, model("SubmitJob").input_shape)


def answer(self, response, boto_service_name=None, service_action_name=None):
    name = "DescribeJobs" if service_action_name == "describe_jobs" else "SubmitJob"
    self._from_boto_response(response, model(name).output_shape)


def wait(self, inner=Service._eval_sync, **words):
    # It would take the third attempt at a task for a callback that has run out of time: no state here waits for one.
    return inner(self, **{**words, "callback_endpoint": None})


def model(operation):
    return boto3.client("batch").meta.service_model.operation_model(operation)


Service._normalise_parameters, Service._normalise_response, Service._eval_sync = request, answer, wait


@mock_aws(config={"batch": {"use_docker": False}, "stepfunctions": {"execute_state_machine": True}})
def main():
    trust = {"Version": "2012-10-17", "Statement": []}
    boto3.client("iam").create_role(RoleName="ingest", AssumeRolePolicyDocument=json.dumps(trust))
    batch, machines = boto3.client("batch"), boto3.client("stepfunctions")
    batch.create_compute_environment(computeEnvironmentName="ingest", type="UNMANAGED", serviceRole=ROLE)
    order = [{"order": 1, "computeEnvironment": "ingest"}]
    batch.create_job_queue(jobQueueName="ingest", state="ENABLED", priority=1, computeEnvironmentOrder=order)
    container = {"image": "ingest", "vcpus": 1, "memory": 768}
    batch.register_job_definition(jobDefinitionName="ingest", type="container", containerProperties=container)
    created = machines.create_state_machine(name="load", definition=json.dumps(hurry(MACHINE)), roleArn=ROLE)
    words = {"source": "shop", "select": SELECT, "slices": int(SLICES), "queue": "ingest", "definition": "ingest", "plan": "plan.json"}
    started = machines.start_execution(stateMachineArn=created["stateMachineArn"], input=json.dumps(words))
    until = time.monotonic() + 300
    while (ended := machines.describe_execution(executionArn=started["executionArn"]))["status"] == "RUNNING":
        if time.monotonic() > until:
            sys.exit("the execution goes on for ever")
        time.sleep(0.1)
    print(json.dumps({"status": ended["status"], "tries": tries, "error": ended.get("error"), "cause": ended.get("cause")}), flush=True)


main()
# Threads of the interpreter are not waited for.
os._exit(0)
