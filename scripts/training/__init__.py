"""Fine-tuning, behind scripts/train.py: each module needs only those above it.

tasks/         what a model can be trained for: examples, encoding, metrics
settings.py    the options of the command
splits.py      the data: tables to examples, held-out validation examples
checkpoint.py  the pretrained encoder with the head of the task
loop.py        training and evaluation by transformers' Trainer
output.py      the output folder: checkpoints, model, training.json
run.py         one training from settings to a saved model
"""
