"""What the frozen part of the trunk makes of images, computed by ONNX Runtime and kept in the cache."""
