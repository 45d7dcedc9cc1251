#!/usr/bin/env bash
# Surprise: precision and recall of TensorFlow.js count a prediction only if it is exactly 1: a perfect classifier whose
#   probabilities are 0.98 and 0.02 has precision 0 and recall 0, also as a metric of compile() and evaluate(), where its
#   accuracy is 1. Keras counts from 0.5 on.
# Versions: @tensorflow/tfjs-layers, tfjs-core and tfjs-backend-cpu 4.22.0 (npm), Node 18 or later.
# Users: round first, tf.metrics.precision(labels, probabilities.round()); do not choose a model by the metric "precision".
# Source: true positives are those where the prediction equals 1, false ones those where it equals 1 or 0; there is no
#   threshold.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts '@tensorflow/tfjs-core@4.22.0' '@tensorflow/tfjs-layers@4.22.0' '@tensorflow/tfjs-backend-cpu@4.22.0'
node --input-type=module - <<'NODE' 2>&1 | grep -v -e '^===' -e '^Hi, looks like' -e '^$'
import { deepStrictEqual } from "node:assert";
import "@tensorflow/tfjs-backend-cpu";
import { round, tensor1d, tensor2d, version_core as version } from "@tensorflow/tfjs-core";
import { layers, metrics, sequential } from "@tensorflow/tfjs-layers";

console.log("Node", process.version, "TensorFlow.js", version);
console.log("guess: precision and recall of a perfect classifier are 1");
const dense = layers.dense({ units: 1, inputShape: [1], activation: "sigmoid", weights: [tensor2d([[4]]), tensor1d([0])] });
const model = sequential({ layers: [dense] });
model.compile({ optimizer: "sgd", loss: "binaryCrossentropy", metrics: ["accuracy", "precision"] });
const inputs = tensor2d([[1], [1], [-1], [-1]]);
const labels = tensor2d([[1], [1], [0], [0]]);
const [, accuracy, precision] = model.evaluate(inputs, labels).map((value) => value.dataSync()[0]);
const probabilities = model.predict(inputs);
const scores = (predictions) => [metrics.precision, metrics.recall].map((metric) => metric(labels, predictions).dataSync()[0]);
const seen = { evaluate: [accuracy, precision], direct: scores(probabilities), rounded: scores(round(probabilities)) };
console.log("probabilities", [...probabilities.dataSync()].map((value) => value.toFixed(2)).join(" "), "seen: accuracy, precision", seen.evaluate, "precision, recall", seen.direct, "of rounded ones", seen.rounded);
deepStrictEqual(seen, { evaluate: [1, 0], direct: [0, 0], rounded: [1, 1] });
NODE
