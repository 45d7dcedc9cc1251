#!/usr/bin/env bash
# Surprise: the JavaScript client of OpenAI asks for base64 without being told to, and decodes whatever comes as base64: a
#   server that answers with plain floats, as many compatible servers do, gives 192 zeros for an embedding of 768 numbers,
#   without an error.
# Versions: openai 6.49.0 (npm), Node 18 or later.
# Users: pass encoding_format: "float" with each call, and look at the length of one vector; a server should obey base64.
# Source: Buffer.from of an array makes one byte of each number, which is 0 for those between -1 and 1, and four bytes are
#   read as one float.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'openai@6.49.0'
node --input-type=commonjs - <<'NODE'
const { readFileSync } = require("fs");
const { createServer } = require("http");
const { deepStrictEqual } = require("assert");
const { OpenAI } = require("openai");

const written = Array.from({ length: 768 }, (_, number) => Math.sin(number + 1) / 20);
const asked = [];
const server = createServer((request, response) => {
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    asked.push(JSON.parse(body).encoding_format);
    response.setHeader("Content-Type", "application/json");
    const data = [{ object: "embedding", index: 0, embedding: written }];
    response.end(JSON.stringify({ object: "list", model: "bert", data, usage: { prompt_tokens: 1, total_tokens: 1 } }));
  });
});
server.listen(0, "127.0.0.1", async () => {
  const client = new OpenAI({ apiKey: "none", baseURL: `http://127.0.0.1:${server.address().port}/v1` });
  const embed = async (options) => (await client.embeddings.create({ model: "bert", input: "hello", ...options })).data[0].embedding;
  const silent = await embed({}), told = await embed({ encoding_format: "float" });
  server.close();
  const { version } = JSON.parse(readFileSync("node_modules/openai/package.json", "utf8"));
  console.log("Node", process.version, "openai", version);
  console.log("guess: floats in the answer are the embedding, whatever was asked for");
  console.log("written:", written.length, "numbers", written.slice(0, 4), "formats asked for:", asked);
  console.log("seen:", silent.length, "numbers", silent.slice(0, 4), "told float:", told.length, told.slice(0, 4));
  deepStrictEqual(asked, ["base64", "float"]);
  deepStrictEqual(told, written);
  deepStrictEqual(silent, Array(192).fill(0));
});
NODE
