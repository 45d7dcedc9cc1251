"""From a model folder to an archive: build, calibration, quantisation, model card, the model store."""
