"""Classify images with an exported ONNX file and nothing of edgetl: `python run_onnx.py model_int8.onnx a.jpg b.png`."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

content = Path(sys.argv[1]).read_bytes()
if sys.argv[1].endswith(".gz"):
    content = gzip.decompress(content)
elif sys.argv[1].endswith(".zst"):
    import zstandard

    content = zstandard.decompress(content)
options = onnxruntime.SessionOptions()
# Without VNNI, the usual int8 kernels for x86-64 let sums saturate. With it, these would only be slower.
cpu = Path("/proc/cpuinfo")
if not cpu.is_file() or "vnni" not in cpu.read_text():
    options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession(content, options)
labels = json.loads(session.get_modelmeta().custom_metadata_map["names"])
_, height, width, _ = session.get_inputs()[0].shape
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: pixels[None]})
    best = int(probabilities[0].argmax())
    print(f"{path}: {labels[str(best)]} {probabilities[0, best]:.4f}")
