"""Classify images with MediaPipe Tasks: `read_with_mediapipe.py MODEL.tflite IMAGE...` prints a JSON list.

Each element is {"image": path, "label": top class, "score": its probability, "scores": {class: probability}}.
Runs in an environment of its
own (`pip install mediapipe pillow`; on Debian also libegl1, libgles2, libgl1 and libglib2.0-0): the check is
worth more when nothing of edgetl is there. Give images of the model's input size: MediaPipe shrinks larger
ones without averaging the pixels it skips, so the model would see other pixels than edgetl gives it.
"""

import argparse
import json
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from PIL import Image, ImageOps


def main() -> None:
    arguments = _arguments()
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_buffer=arguments.model.read_bytes()), max_results=-1
    )
    with vision.ImageClassifier.create_from_options(options) as classifier:
        results = [_classify(classifier, path) for path in arguments.images]
    print(json.dumps(results, ensure_ascii=False, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify images with MediaPipe Tasks.")
    parser.add_argument("model", type=Path, metavar="MODEL.tflite")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    return parser.parse_args()


def _classify(classifier: vision.ImageClassifier, path: Path) -> dict[str, object]:
    """The classes of the image at `path`, turned as its EXIF says."""
    with Image.open(path) as image:
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    result = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels))
    categories = result.classifications[0].categories
    scores = {category.category_name: category.score for category in categories}
    return {
        "image": str(path),
        "label": categories[0].category_name,
        "score": categories[0].score,
        "scores": scores,
    }


if __name__ == "__main__":
    main()
