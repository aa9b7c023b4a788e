-- wrk: ask for the paths of a file in turn; at the end one line of JSON. Arguments: file of paths, Accept header.
local requests, at = {}, 0

function init(args)
  local headers = { Accept = args[2] }
  for path in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'counted {"requests": %d, "bytes": %d, "duration_us": %d, "failed": %d, "p50_us": %.1f, "p95_us": %.1f}\n',
    summary.requests, summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95)))
end
