"""A trained run as one graph that ONNX Runtime or OpenVINO runs: export it, open it, predict with it.

Opening and predicting import neither torch nor transformers.
"""
