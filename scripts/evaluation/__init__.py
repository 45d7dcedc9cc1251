"""Evaluation of what is served: metrics with intervals, calibration, weak slices, robustness, a report, a gate.

calibration.py   how far scores are probabilities: ECE, Brier, reliability, accuracy against coverage
"""
