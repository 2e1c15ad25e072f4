"""Hyperparameter search on Ray and ensembles for concrete crack classification.

The folder is the flow: `data` turns tiles into batches, `training` trains one member, `search` runs
many, `selection` chooses on validation data, `evaluate` opens the test split once.
"""

__version__ = "0.2.0"
