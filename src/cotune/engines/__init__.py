"""Engines beside torch: sessions of ONNX Runtime and OpenVINO, and the graphs that torch writes for them."""
