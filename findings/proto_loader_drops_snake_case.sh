#!/usr/bin/env bash
# Surprise: a gRPC client in Node that writes the names of a .proto file as they stand there, model_name, sends an empty
#   message: @grpc/proto-loader turns names into modelName unless told otherwise, and leaves out every name that it does
#   not know without an error. The JSON form of protobuf, and Python's json_format, take both spellings.
# Versions: @grpc/proto-loader 0.8.1 (npm), Node 18 or later.
# Users: keepCase: true in load(), and one test that reads back what was sent; the protocol of KServe and Triton has
#   snake case only.
# Source: keepCase is false by default, and fromObject of protobufjs looks up the names that it has.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts '@grpc/proto-loader@0.8.1'
cat > infer.proto <<'END'
syntax = "proto3";
message Request { string model_name = 1; string model_version = 2; string id = 3; }
service Inference { rpc Infer(Request) returns (Request); }
END
node --input-type=commonjs - <<'NODE'
const { deepStrictEqual } = require("assert");
const { loadSync } = require("@grpc/proto-loader");

console.log("Node", process.version, "@grpc/proto-loader", require("./node_modules/@grpc/proto-loader/package.json").version);
console.log("guess: both spellings are taken, as the JSON form of protobuf has it, or an unknown one is refused");
const seen = {};
for (const [options, message] of [
  [{}, { model_name: "bert", model_version: "2" }],
  [{}, { modelName: "bert", modelVersion: "2" }],
  [{ keepCase: true }, { model_name: "bert", model_version: "2" }],
  [{ keepCase: true }, { modelName: "bert", modelVersion: "2" }],
]) {
  const { requestSerialize } = loadSync("infer.proto", options).Inference.Infer;
  const bytes = requestSerialize(message).length;
  console.log("seen:", options, message, bytes, "bytes");
  seen[`${Object.keys(options)} ${Object.keys(message)[0]}`] = bytes;
}
deepStrictEqual(seen, { " model_name": 0, " modelName": 9, "keepCase model_name": 9, "keepCase modelName": 0 });
NODE
