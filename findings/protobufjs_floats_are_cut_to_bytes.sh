#!/usr/bin/env bash
# Surprise: a Float32Array given to a field of bytes, such as raw_input_contents of KServe's and Triton's gRPC, is sent as
#   one byte for each number, its whole part modulo 256; a string given to one is read as base64, so the text "good" is
#   sent as three other bytes. Neither is an error.
# Versions: protobufjs 8.8.1 (npm; the gRPC clients of Node use it), Node 18 or later.
# Users: Buffer.from(array.buffer, array.byteOffset, array.byteLength) for numbers, Buffer.from(text) for texts; compare the
#   length of what is sent with the tensor's shape.
# Source: fromObject takes anything with a length for a list of bytes, and a string for base64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'protobufjs@8.8.1'
node --input-type=commonjs - <<'NODE'
const { deepStrictEqual } = require("assert");
const protobuf = require("protobufjs");

console.log("Node", process.version, "protobufjs", require("./node_modules/protobufjs/package.json").version);
console.log("guess: the bytes of the array in memory, and the UTF-8 of the text, or an error");
const { root } = protobuf.parse('syntax = "proto3"; message Request { repeated bytes contents = 7; }');
const Request = root.lookupType("Request");
const sent = (value) => [...Request.decode(Request.encode(Request.fromObject({ contents: [value] })).finish()).contents[0]];
const numbers = new Float32Array([0.5, -1.5, 300]);
const seen = { numbers: sent(numbers), text: sent("good") };
const right = { numbers: sent(Buffer.from(numbers.buffer)).length, text: String(Buffer.from(sent(Buffer.from("good")))) };
console.log("seen:", [...numbers], "is sent as", seen.numbers, 'and "good" as', seen.text, "; as Buffers:", right);
deepStrictEqual(seen, { numbers: [0, 255, 44], text: [130, 138, 29] });
deepStrictEqual(right, { numbers: 12, text: "good" });
NODE
