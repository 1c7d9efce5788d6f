#!/usr/bin/env bash
# timm 1.0.31: pretrained weights of another model load without a word if num_classes is changed too.
#
# timm.create_model(name, pretrained=True) loads strictly: a file for ResNet-18 is refused by a ResNet-34. With another
# num_classes the same call drops the classifier, and loads whatever fits: the blocks that ResNet-18 does not have keep
# their random weights, in the middle of the network. Nothing is raised, and nothing is logged at the default level.
# Loading with the original number of classes, and reset_classifier(num_classes) afterwards, refuses the file.
#
# Seen on Linux, Python 3.11, on the CPU:
#   1000 classes: RuntimeError
#   10 classes: loaded; 8 convolutions keep random weights, such as layer1.2.conv1.weight
#   1000 classes, then reset_classifier(10): RuntimeError
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.2.6
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import timm
import torch

file = f"{sys.argv[1]}/resnet18.pt"
torch.manual_seed(0)
small = timm.create_model("resnet18", num_classes=1000)
torch.save(small.state_dict(), file)
source = {"file": file, "hf_hub_id": None, "url": ""}


def make(classes):
    return timm.create_model("resnet34", pretrained=True, num_classes=classes, pretrained_cfg_overlay=source)


def refused(call):
    try:
        call()
    except RuntimeError:
        return True
    return False


strict, reset = refused(lambda: make(1000)), refused(lambda: make(1000).reset_classifier(10))
print("1000 classes:", "RuntimeError" if strict else "loaded")
loaded, names = make(10).state_dict(), small.state_dict()
same = sum(name in names and torch.equal(weight, names[name]) for name, weight in loaded.items())
random = [name for name in loaded if name.endswith("conv1.weight") and name not in names]
print(f"10 classes: loaded; {len(random)} convolutions keep random weights, such as {random[0]}")
print("1000 classes, then reset_classifier(10):", "RuntimeError" if reset else "loaded")
assert strict and reset and same > 20 and len(random) == 8
PYTHON
echo "as described, timm 1.0.31"
