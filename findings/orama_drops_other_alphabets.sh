#!/usr/bin/env bash
# Surprise: Orama's word search forgets letters that its language does not have: with the default, Cyrillic, Greek and
#   Chinese texts are not found by any word, "Müller" is kept as "m" and "ller", and a search for it finds "Müll" and
#   "Möller" too. MiniSearch finds them.
# Versions: @orama/orama 3.1.18, minisearch 7.2.0 (npm), Node 18 or later.
# Users: pass language, or a tokenizer of your own that splits at [^\p{L}\p{N}]+ (flag u) for texts of several languages;
#   the hybrid search of such texts is one of vectors alone.
# Source: a text is split at everything but A-Z, a few Italian vowels, digits and _'- unless a language is given.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts '@orama/orama@3.1.18' 'minisearch@7.2.0'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { create, insert, search } from "@orama/orama";
import MiniSearch from "minisearch";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
console.log("Node", process.version, "@orama/orama", version("@orama/orama"), "minisearch", version("minisearch"));
console.log("guess: a word of a text finds the text");
const texts = ["привет мир", "καλημέρα κόσμε", "天气 很好", "Müller wohnt hier", "viel Müll hier", "Möller wohnt dort"];
const orama = create({ schema: { text: "string" } });
for (const text of texts) await insert(orama, { text });
const mini = new MiniSearch({ fields: ["text"], storeFields: ["text"] });
mini.addAll(texts.map((text, id) => ({ id, text })));
const seen = {};
for (const term of ["привет", "κόσμε", "天气", "Müller"]) {
  seen[term] = {
    orama: (await search(orama, { term })).hits.map((hit) => hit.document.text).sort(),
    minisearch: mini.search(term).map((hit) => hit.text).sort(),
  };
}
console.log("seen:", JSON.stringify(seen, null, 1));
deepStrictEqual(Object.values(seen).map((found) => found.minisearch), [[texts[0]], [texts[1]], [texts[2]], [texts[3]]]);
deepStrictEqual(Object.values(seen).map((found) => found.orama.length), [0, 0, 0, 3]);
NODE
