"""Weights out and in: the exported encoder and its classifier, other programs' checkpoints, timm, torch and ONNX."""
