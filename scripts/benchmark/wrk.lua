-- Sends the requests of a file in turn, and prints counts and quantiles as one line of JSON, for scripts/benchmark/wrk.py:
--   wrk -s wrk.lua ... URL -- FILE [MILLISECONDS]
-- FILE holds each request as its length in bytes, a line feed, and the bytes. MILLISECONDS: mean of the exponentially
-- distributed pause of a connection before each request.

local requests, next_one = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for length in function() return file:read("*n") end do
    file:read(1)
    requests[#requests + 1] = file:read(length)
  end
  file:close()
  local mean = tonumber(arguments[2])
  if mean then
    function delay() return math.floor(-mean * math.log(1 - math.random()) + 0.5) end
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"seconds": %.6f, "answers": %d, "refused": %d, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.duration / 1e6, summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
