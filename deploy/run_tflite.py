"""Classify images with an exported TFLite file and nothing of edgetl: `python run_tflite.py model_int8.tflite a.jpg`."""

import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

interpreter = Interpreter(model_path=sys.argv[1])
interpreter.allocate_tensors()
taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
labels = zipfile.ZipFile(sys.argv[1]).read("labels.txt").decode().splitlines()
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
