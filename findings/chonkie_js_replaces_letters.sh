#!/usr/bin/env bash
# Surprise: the RecursiveChunker of chonkie for JavaScript replaces letters by blanks in sentences with a letter outside of
#   ASCII that are longer than a chunk: "die Bäckerin bäckt" becomes " ie  äckerin b ckt". The same text without umlauts keeps
#   its letters, and so does the SentenceChunker.
# Versions: @chonkiejs/core 0.0.11 (npm), Node 18 or later.
# Users: take SentenceChunker or TokenChunker for other texts than English, and compare the chunks, joined and without blanks,
#   with the text.
# Source: words are found by their offsets in bytes of UTF-8 and cut out by offsets in characters; what is left
#   out between two words is another letter then, not the blank.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts '@chonkiejs/core@0.0.11'
node --input-type=module - <<'NODE'
import { strictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { RecursiveChunker, SentenceChunker } from "@chonkiejs/core";

const { version } = JSON.parse(readFileSync("node_modules/@chonkiejs/core/package.json", "utf8"));
console.log("Node", process.version, "@chonkiejs/core", version);
console.log("guess: all letters of the text stand in its chunks, in their order");
const umlauts = "Der Müller mahlt das Korn und die Bäckerin bäckt für alle Leute im Dorf viele Brötchen aus dem guten Mehl";
const ascii = umlauts.replaceAll("ü", "u").replaceAll("ä", "a").replaceAll("ö", "o");
const letters = (text) => text.replaceAll(" ", "");
const chunks = async (kind, text) => (await (await kind.create({ chunkSize: 64 })).chunk(text)).map((chunk) => chunk.text);
const seen = await chunks(RecursiveChunker, umlauts);
console.log("seen:", seen);
const lost = letters(umlauts).length - letters(seen.join("")).length;
console.log("seen:", lost, "letters lost; without umlauts", await chunks(RecursiveChunker, ascii));
strictEqual(lost, 17);
strictEqual(letters((await chunks(RecursiveChunker, ascii)).join("")), letters(ascii));
strictEqual(letters((await chunks(SentenceChunker, umlauts)).join("")), letters(umlauts));
NODE
