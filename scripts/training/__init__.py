"""Fine-tuning: data splits, the tasks of training, checkpoints and the training loop."""
