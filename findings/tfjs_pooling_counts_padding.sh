#!/usr/bin/env bash
# Surprise: in TensorFlow.js globalAveragePooling1d behind an embedding with maskZero counts the padding: a text gets
#   another vector as soon as it is padded. Keras leaves the padding out of the mean, and so does an LSTM of TensorFlow.js
#   at the same place: a converted classifier of averaged words answers otherwise in the browser.
# Versions: @tensorflow/tfjs-layers, tfjs-core and tfjs-backend-cpu 4.22.0 (npm), Node 18 or later.
# Users: run such a model with one text at a time, unpadded, or compute the mean yourself from the output of the embedding;
#   compare one padded text with Python before a converted model is used.
# Source: the layer takes the mean over axis 1 and has no use for a mask, which Keras's layer of this name has.
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
import { tensor2d, version_core as version } from "@tensorflow/tfjs-core";
import { layers, sequential } from "@tensorflow/tfjs-layers";

console.log("Node", process.version, "TensorFlow.js", version);
console.log("guess: padding is masked: [1, 2] and [1, 2, 0, 0] give the same");
const answers = (second) => {
  const table = tensor2d([[9], [1], [2]]);
  const model = sequential({ layers: [layers.embedding({ inputDim: 3, outputDim: 1, maskZero: true, inputShape: [null], weights: [table] }), second] });
  return [[1, 2], [1, 2, 0, 0]].map((ids) => Number(model.predict(tensor2d([ids], undefined, "int32")).dataSync()[0].toFixed(4)));
};
const pooled = answers(layers.globalAveragePooling1d({}));
const recurrent = answers(layers.lstm({ units: 1, kernelInitializer: "ones", recurrentInitializer: "ones" }));
console.log("seen: mean", pooled, "LSTM", recurrent);
deepStrictEqual(pooled, [1.5, 5.25]);
deepStrictEqual(recurrent[0], recurrent[1]);
NODE
