"""Pretrained encoders behind one protocol."""
