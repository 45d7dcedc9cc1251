# Add the requests of a log to counters of Prometheus, for run.sh:  awk -f metrics.awk counters - < requests > counters.new
#
# A line of the log is `CLIENT STATUS SECONDS`; a line of the counters is `SERIES VALUE`, or `# TYPE ...`.

BEGIN { count = split("0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60", limits, " ") }

/^#/ { next }

FILENAME != "-" { total[$1] = $2; next }

{
  total["gateway_requests_total{client=\"" $1 "\",status=\"" $2 "\"}"]++
  for (i = 1; i <= count && $3 > limits[i] + 0; i++);
  added[i]++  # to this bucket and to all above it
  seconds += $3
  requests++
}

END {
  print "# TYPE gateway_requests_total counter"
  for (series in total) if (series ~ /^gateway_requests_total/) printf "%s %d\n", series, total[series]
  print "# TYPE gateway_request_seconds histogram"
  for (i = 1; i <= count; i++) {
    series = "gateway_request_seconds_bucket{le=\"" limits[i] "\"}"
    below += added[i]
    printf "%s %d\n", series, total[series] + below
  }
  requests += total["gateway_request_seconds_count"]
  printf "%s %d\n", "gateway_request_seconds_bucket{le=\"+Inf\"}", requests
  printf "%s %.3f\n", "gateway_request_seconds_sum", total["gateway_request_seconds_sum"] + seconds
  printf "%s %d\n", "gateway_request_seconds_count", requests
}
