"""Shared by the tests of secrets: a model and data that print secrets in every way, and a search for them."""

from pathlib import Path

TALKATIVE = """
import logging, os, subprocess, sys, traceback, warnings

import torch


def tell(where):
    for name in ("MLFLOW_TRACKING_PASSWORD", "PRIVATE", "PEM_KEY"):
        secret = os.environ[name]
        print(where, secret)
        print("//ada:", secret, "@host/", sep="", file=sys.stderr, flush=True)
        sys.stderr.write(secret[:5])
        sys.stderr.flush()
        sys.stderr.write(secret[5:] + "\\n")
        warnings.warn(f"{where} http://ada:{secret}@host/?token={secret}")
        for logger in ("mlflow", "sqlalchemy", "urllib3", "runner", "root"):
            logging.getLogger(logger).error("%s: %r", where, secret)
        try:
            raise KeyError(secret)
        except KeyError:
            traceback.print_exc()
    return secret


class Net(torch.nn.Sequential):
    def __init__(self, input_shape, num_outputs, token, when):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(torch.Size(input_shape).numel(), num_outputs))
        self.token, self.when = token, when
        if when == "built":
            raise RuntimeError(f"cannot be built with {token}: " + tell("built"))

    def forward(self, inputs):
        if self.training and inputs.device.type != "meta":
            tell("trained")
            if self.when == "trained":
                raise ValueError("the hub refuses " + self.token + os.environ["MLFLOW_TRACKING_PASSWORD"])
        return super().forward(inputs)


class Worker(torch.utils.data.Dataset):
    targets = [0, 1] * 6

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if torch.utils.data.get_worker_info() is not None:
            tell("loaded")
        return torch.zeros(4), index % 2


def samples(password):
    from runner.data.source import Source
    return Source("talkative", train=Worker(), test=None, mean=0.0, std=1.0, classes=["a", "b"])
"""

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "canary-1-correct/horse",
    "PRIVATE": "canary-2-battery\\staple",
    "PEM_KEY": "-----BEGIN KEY-----\ncanary-3-MIIEvQIBADAN\ncanary-4-Bgkqhki\n-----END KEY-----",
}

OF_ALL = (
    "--config-dir", "my_conf", "model=net", "data=mine", "data.in_memory=false", "data.num_workers=1",
    "trainer.epochs=1", "tracking.log_model=false",
)  # fmt: skip


def write_talkative(folder: Path) -> None:
    """Write the module, and the YAML files of its model and data."""
    (folder / "talkative.py").write_text(TALKATIVE)
    (folder / "my_conf" / "model").mkdir(parents=True)
    (folder / "my_conf" / "model" / "net.yaml").write_text(
        "_target_: talkative.Net\ntoken: ${oc.env:PRIVATE}\nwhen: never\n"
    )
    (folder / "my_conf" / "data").mkdir()
    (folder / "my_conf" / "data" / "mine.yaml").write_text("_target_: talkative.samples\npassword: ${oc.env:PRIVATE}\n")


def assert_no_secret(folder: Path) -> None:
    """Assert that no file below a folder contains a secret, a part of one, or another encoding of one."""
    for path in folder.rglob("*"):
        held = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for secret in (b"canary-", b"orrect/horse", b"orrect%2Fhorse", b"attery"):
            assert secret not in held, (path, held[max(0, held.find(secret) - 200) : held.find(secret) + 50])
