"""The manifests of the Kubernetes example against the schemas that Kubernetes publishes. Needs kubernetes-validate."""

import copy
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/orchestration/kubernetes/load.yaml"
# `backoffLimitPerIndex` is stable from 1.33 on, and on by default from 1.29 on.
VERSIONS = ["1.29", "1.31", kubernetes_validate.latest_version()]


class Manifests(unittest.TestCase):
    def setUp(self):
        with EXAMPLE.open(encoding="utf-8") as file:
            self.documents = list(yaml.safe_load_all(file))

    def test_every_document_fits_the_published_schema(self):
        for version in VERSIONS:
            for document in self.documents:
                with self.subTest(version=version, kind=document["kind"], name=document["metadata"]["name"]):
                    kubernetes_validate.validate(document, version, strict=True)

    def test_a_field_of_the_wrong_name_or_type_would_be_found(self):
        jobs = [document for document in self.documents if document["kind"] == "Job"]
        for key, value in [("completionsMode", "Indexed"), ("completions", "8")]:
            broken = copy.deepcopy(jobs[0])
            broken["spec"][key] = value
            with self.assertRaises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
