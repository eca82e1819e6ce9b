"""Classify images with an exported TFLite file and nothing of edgetl: `python run_tflite.py model_int8.tflite a.jpg`."""

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

content = Path(sys.argv[1]).read_bytes()
if sys.argv[1].endswith(".gz"):
    content = gzip.decompress(content)
elif sys.argv[1].endswith(".zst"):
    import zstandard

    content = zstandard.decompress(content)
interpreter = Interpreter(model_content=content)
interpreter.allocate_tensors()
taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
labels = zipfile.ZipFile(io.BytesIO(content)).read("labels.txt").decode().splitlines()
_, height, width, _ = taken["shape"]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    interpreter.set_tensor(taken["index"], pixels[None])
    interpreter.invoke()
    probabilities = interpreter.get_tensor(given["index"])[0]
    best = int(probabilities.argmax())
    print(f"{path}: {labels[best]} {probabilities[best]:.4f}")
