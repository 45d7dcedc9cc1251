#!/usr/bin/env bash
# Surprise: in a cluster of Node processes the quantiles of a Summary are added up: four workers that answer in 0.1 s each
#   have a median of 0.4 s, and the p95 grows with the number of workers. Count and sum are right.
# Versions: prom-client 15.1.3 (npm), Node 18 or later.
# Users: take a Histogram, whose buckets can be added and whose quantiles Prometheus computes, wherever processes are
#   aggregated (cluster, pm2); or scrape each worker with a label of its own.
# Source: the samples of all workers are aggregated by "sum" unless a metric names another aggregator, and the quantiles
#   are samples of the Summary like its count. The README says that metrics are summed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts 'prom-client@15.1.3'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import client from "prom-client";

const { version } = JSON.parse(readFileSync("node_modules/prom-client/package.json", "utf8"));
console.log("Node", process.version, "prom-client", version);
console.log("guess: quantiles of four workers that answer in 0.1 s each are 0.1 s, or are left out");
const worker = async () => {
  const registry = new client.Registry();
  const common = { help: "latency", registers: [registry] };
  const summary = new client.Summary({ name: "summary_seconds", percentiles: [0.5, 0.95], ...common });
  const histogram = new client.Histogram({ name: "histogram_seconds", buckets: [0.1, 0.2, 0.5], ...common });
  for (let request = 0; request < 100; request += 1) {
    summary.observe(0.1);
    histogram.observe(0.1);
  }
  return registry.getMetricsAsJSON();
};
const one = await client.AggregatorRegistry.aggregate([await worker()]).getMetricsAsJSON();
const four = await client.AggregatorRegistry.aggregate(await Promise.all([1, 2, 3, 4].map(worker))).getMetricsAsJSON();
const quantiles = (metrics) => metrics[0].values.filter(({ labels }) => "quantile" in labels).map(({ value }) => value);
const buckets = (metrics) => metrics[1].values.filter(({ labels }) => "le" in labels).map(({ value }) => value);
console.log("seen: p50 and p95 of one worker", quantiles(one), "of four workers", quantiles(four), "buckets of four workers", buckets(four));
deepStrictEqual([quantiles(one), quantiles(four)], [[0.1, 0.1], [0.4, 0.4]]);
deepStrictEqual(buckets(four), [400, 400, 400, 400]);
NODE
