"""Fewer bits: ONNX files through ONNX Runtime's quantizer, TFLite files through AI Edge Quantizer."""
