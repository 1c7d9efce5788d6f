#!/usr/bin/env bash
# MLflow 3.17.2: a client that was given its store registers a logged model from another one, the default store.
#
# MlflowClient(tracking_uri=..., registry_uri=...).create_model_version(name, "models:/<model id>", ...) on a database
# resolves the source by a new MlflowClient() without arguments. Unless MLFLOW_TRACKING_URI or set_tracking_uri name the
# same store, the model is not found there, and a new, empty mlflow.db is left in the working folder. A tracking server is
# not affected, as its own store is its default. The version does not say its model_id; its source does.
#
# Seen on Linux, Python 3.11:
#   refused: Unable to fetch model from model URI source artifact location ... not found
#   in the working folder now: mlflow.db
#   with the same store as the default: version 1, model_id None
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mlflow==3.17.2
unset MLFLOW_TRACKING_URI MLFLOW_REGISTRY_URI
mkdir "$folder/here"
cd "$folder/here"
MLFLOW_DISABLE_TELEMETRY=true MLFLOW_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" - <<'PYTHON'
import os
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

there = Path.cwd().parent / "there"
there.mkdir()
store = f"sqlite:///{there}/store.db"
client = MlflowClient(tracking_uri=store, registry_uri=store)
experiment = client.create_experiment("one", (there / "files").as_uri())
run = client.create_run(experiment)
model = client.create_logged_model(experiment, "model", run.info.run_id)
client.create_registered_model("registered")
arguments = ("registered", f"models:/{model.model_id}", run.info.run_id)
refused = False
try:
    client.create_model_version(*arguments, model_id=model.model_id)
except MlflowException as error:
    refused = "not found" in str(error)
    print(f"refused: {error}")
left = [path.name for path in Path.cwd().iterdir()]
print("in the working folder now:", *left)
os.environ["MLFLOW_TRACKING_URI"] = store
version = client.create_model_version(*arguments, model_id=model.model_id)
print(f"with the same store as the default: version {version.version}, model_id {version.model_id}")
assert refused and left == ["mlflow.db"] and int(version.version) == 1 and version.model_id is None
PYTHON
echo "as described, MLflow 3.17.2"
