// Creates a drift monitor, lets it observe one study after another, and reads its alarm.
// usage: node observe.js MONITOR REFERENCE < studies.jsonl
// A line is a study: {"id": "o-17", "group": "9f86d081", "features": [0.12, -1.3]}
const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const options = { includeDirs: [path.join(__dirname, "../../proto")], enums: String, longs: Number };
const definition = protoLoader.loadSync("vfmalign/v1/monitoring.proto", options);
const { MonitoringService } = grpc.loadPackageDefinition(definition).vfmalign.v1;

// Every call may be repeated: an observation is recorded once, however often it is sent.
const retryPolicy = {
  maxAttempts: 4,
  initialBackoff: "0.2s",
  maxBackoff: "2s",
  backoffMultiplier: 2,
  retryableStatusCodes: ["UNAVAILABLE"],
};
const serviceConfig = { loadBalancingConfig: [{ round_robin: {} }], methodConfig: [{ name: [{}], retryPolicy }] };
const client = new MonitoringService(process.env.VFMALIGN_MONITORING_ADDRESS, grpc.credentials.createInsecure(), {
  "grpc.service_config": JSON.stringify(serviceConfig),
  "grpc.dns_min_time_between_resolutions_ms": 1_000,
});
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${fs.readFileSync(process.env.VFMALIGN_TOKEN_FILE, "utf8").trim()}`);

function call(method, request) {
  return promisify(client[method]).call(client, request, metadata, { deadline: Date.now() + 30_000 });
}

// A vector of channels as little-endian float32. JSON writes NaN as null, which would be sent as 0.
function toTensor(features) {
  const data = Buffer.alloc(4 * features.length);
  features.forEach((value, index) => data.writeFloatLE(value ?? NaN, 4 * index));
  return { dataType: "DATA_TYPE_FLOAT32", shape: [features.length], data };
}

async function main() {
  const [monitorId, featureSetId] = process.argv.slice(2);
  const spec = { reference: { featureSetId }, alpha: 0.05 };
  let { monitor } = await call("CreateMonitor", { monitorId, spec }); // the same call again returns the same monitor
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { id, group, features } = JSON.parse(line);
    const study = { observationId: id, group };
    const observations = [{ study, layers: [{ layer: monitor.spec.layer, tensor: toTensor(features) }] }];
    // These lines do not say which weights produced them, so this program says it: those of the monitor. Where Extract
    // produced them, pass the digests of its response, and another model is refused.
    const { results } = await call("Observe", { monitorId, origin: monitor.origin, inline: { observations } });
    if (results[0].raisedAlarm) console.log("alarm at row", results[0].row, "of epoch", results[0].epoch);
  }

  ({ monitor } = await call("GetMonitor", { monitorId }));
  console.log("outcomes", JSON.stringify(monitor.outcomes));
  for (const { component, logEvidence, logThreshold } of monitor.components) {
    console.log(component, logEvidence ?? "absent", "of", logThreshold); // absent while the statistic is 0
  }
  console.log("alarm", monitor.epoch.alarm?.observationId ?? "none");
  client.close();
}

main().catch((error) => {
  console.error(grpc.status[error.code] ?? "", error.details ?? error.message);
  process.exitCode = 1;
});
