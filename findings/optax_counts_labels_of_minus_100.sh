#!/usr/bin/env bash
# Surprise: the label -100, with which the data collators of transformers mark padding and words that are not masked, is
#   not left out by optax: from 100 classes on it is the hundredth class from the end (word 30422 of BERT), and the
#   model learns to predict it; with fewer classes the loss is NaN.
# Versions: optax 0.2.8, jax 0.10.2.
# Users: pass where=labels != -100 to optax's losses, and divide by the number of labels that are left, not by all.
# Source: the logit of a label is looked up with JAX's rules: a negative index counts from the end, one out of range is NaN.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'optax==0.2.8' 'jax==0.10.2' 'jaxlib==0.10.2' 'numpy==2.4.6'
cd "$work"
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import optax

print("optax", version("optax"), "jax", version("jax"))
print("guess: -100 is left out, as torch's cross entropy does, or is an error")
loss = optax.softmax_cross_entropy_with_integer_labels


def seen_of(classes):
    """Return the losses of the labels 1 and -100, and the logit that the gradient of the latter raises."""
    logits = jnp.zeros((2, classes))
    labels = jnp.array([1, -100])
    gradient = np.asarray(jax.grad(lambda values: loss(values, labels).sum())(logits))[1]
    return [round(float(value), 3) for value in loss(logits, labels)], int(gradient.argmin())


for classes in (9, 30522):
    print("seen:", classes, "classes: losses of labels 1 and -100, and the class that the latter trains:", *seen_of(classes))
few, many = seen_of(9)[0], seen_of(30522)
assert few[0] == 2.197 and np.isnan(few[1])
assert many == ([10.326, 10.326], 30422)
PYTHON
