"""Hyperparameter search on Ray and ensembles for concrete crack classification.

The folder is the flow: `data` turns tiles into batches, `training` trains one member, `search` runs
many, `selection` and `calibration` choose on validation data, `evaluate` opens the test split once.
"""
