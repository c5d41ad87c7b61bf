// The first request with @grpc/grpc-js and the .proto files: `npm install`, then `node compute.js`.
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const root = path.join(__dirname, "../../proto");
const definition = protoLoader.loadSync("vfmalign/v1/mmd.proto", { includeDirs: [root], enums: String, longs: Number });
const { MmdService } = grpc.loadPackageDefinition(definition).vfmalign.v1;

const retryPolicy = {
  maxAttempts: 4,
  initialBackoff: "0.2s",
  maxBackoff: "2s",
  backoffMultiplier: 2,
  retryableStatusCodes: ["UNAVAILABLE"],
};
const serviceConfig = { loadBalancingConfig: [{ round_robin: {} }], methodConfig: [{ name: [{}], retryPolicy }] };
const client = new MmdService(process.env.VFMALIGN_MMD_ADDRESS, grpc.credentials.createInsecure(), {
  "grpc.service_config": JSON.stringify(serviceConfig),
  "grpc.max_send_message_length": 16 << 20,
  "grpc.max_receive_message_length": 16 << 20,
  // Finds the pods of a new version in time; 30 s by default.
  "grpc.dns_min_time_between_resolutions_ms": 1_000,
});
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${fs.readFileSync(process.env.VFMALIGN_TOKEN_FILE, "utf8").trim()}`);

// Rows × channels as little-endian float32.
function toSource(rows) {
  const data = Buffer.alloc(4 * rows.length * rows[0].length);
  rows.flat().forEach((value, index) => data.writeFloatLE(value, 4 * index));
  const features = { dataType: "DATA_TYPE_FLOAT32", shape: [rows.length, rows[0].length], data };
  return { inline: { layers: [{ features }] } };
}

function compute(request) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 30_000;
    client.Compute(request, metadata, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

async function main() {
  const y = toSource([[2, 0], [3, 0], [2, 1], [3, 1]]);
  const options = { pairing: "PAIRING_INDEPENDENT", kernel: { fixedSigma: 1.0 }, test: { permutations: 99, seed: 1 } };
  const response = await compute({ x: toSource([[0, 0], [1, 0], [0, 1], [1, 1]]), y, ...options });
  const { mmd2, pValue } = response.layers[0].raw;
  console.log("MMD²", mmd2.value ?? `absent: ${mmd2.absentReason}`);
  console.log("p", pValue.value ?? `absent: ${pValue.absentReason}`);

  try {
    await compute({ x: { featureSetId: "some-feature-set" }, y, ...options });
  } catch (error) {
    console.log(grpc.status[error.code], "|", error.details); // subject, cause and remedy as one text
  }
  client.close();
}

main();
