"""Fine-tuning, behind scripts/train.py: each module needs only those above it.

tasks/              what a model can be trained for: examples, encoding, metrics
settings.py         the options of the command
splits.py           the data: tables to examples, held-out validation examples
data_report.py      a look at the data: label counts, duplicates, leakage, personal data
class_weights.py    how much the examples of each label count in the loss
trackers.py         experiment trackers: TensorBoard, MLflow, Weights & Biases, Trackio
curves.py           the curves of losses and metrics as a picture
lora.py             LoRA: an adapter beside the layers instead of all weights
compact.py          word embeddings of the training data's tokens alone, while training
native.py           functions in C (native/): what training computes between products, products by tiles
optimizer.py        AdamW that clips, updates and packs weights in one pass
layer_products.py   the products of a layer, forwards and backwards
unpadded_layers.py  the layers on one row of sequences, as one function of autograd
unpadded.py         the encoder on unpadded batches in the place of that of transformers
checkpoint.py       the pretrained encoder with the head of the task
output.py           the output folder: checkpoints, model, training.json
loop.py             training and evaluation by transformers' Trainer
search.py           search of hyper-parameters by optuna
run.py              one training from settings to a saved model
"""
