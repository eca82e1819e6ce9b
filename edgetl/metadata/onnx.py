"""What an ONNX file says about itself, in the words of four readers.

`Image.*` are the official keys of the ONNX standard (docs/MetadataProps.md), `names`/`imgsz`/`task` are what
Ultralytics tools read, `model_info ...` what OpenVINO's Model API reads, `edgetl.*` our own.
"""

import json
from collections.abc import Mapping

import onnx

from edgetl.card import ModelCard
from edgetl.config import Precision


def describe(
    model: onnx.ModelProto, card: ModelCard, precision: Precision, further: Mapping[str, str] | None = None
) -> None:
    """Write the labels, the input contract and `further` properties into `model`."""
    labels = list(card.labels)
    model.doc_string = f"{card.name}: classifies uint8 RGB images into {len(labels)} classes."
    model.producer_name, model.producer_version = "edgetl", card.edgetl_version
    contract = {
        "input": f"uint8 RGB [N, {card.input.height}, {card.input.width}, 3], 0-255",
        "output": f"float32 probabilities [N, {len(labels)}]",
        "resize": "antialiased bilinear, aspect ratio not kept",
        "background_rgb": card.input.background_rgb,
        "preprocessing_version": card.input.preprocessing_version,
    }
    properties = {
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
        "names": json.dumps(dict(enumerate(labels)), ensure_ascii=False),
        "imgsz": json.dumps([card.input.height, card.input.width]),
        "task": "classify",
        "model_info model_type": "Classification",
        "model_info labels": " ".join(label.replace(" ", "_") for label in labels),
        "model_info resize_type": "standard",
        "model_info reverse_input_channels": "False",
        "model_info mean_values": "0 0 0",
        "model_info scale_values": "1 1 1",
        "model_info output_raw_scores": "False",
        "edgetl.contract": json.dumps(contract),
        "edgetl.precision": precision.value,
        "edgetl.version": card.edgetl_version,
    }
    onnx.helper.set_model_props(model, properties | dict(further or {}))
