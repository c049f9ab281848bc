"""seqdistill: recipes, runs, shards, engines and judges; knows nothing of any one stage."""

__version__ = "0.1.0"
