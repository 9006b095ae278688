"""Beyond one machine: posts are scored, and cells of a benchmark computed, by the workers of a Ray cluster."""

from cotune.scale.cluster import Workers
from cotune.scale.predict import predict
from cotune.scale.scoring import Scoring
from cotune.scale.shards import Reading

__all__ = ["Reading", "Scoring", "Workers", "predict"]
