"""Readers of data files, the same for training, calibration, prediction and scoring."""
