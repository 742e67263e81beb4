// Checks the vectors of `signatures.json` with the published library: verify.mjs FILE

import { readFileSync } from "node:fs";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const { vectors } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const broken = vectors.map(problem).filter((sentence) => sentence !== undefined);
for (const sentence of broken) console.error(`node: ${sentence}`);
if (broken.length > 0 || vectors.length === 0) {
  console.error(`node: ${broken.length} of ${vectors.length} vectors do not hold`);
  process.exitCode = 1;
} else {
  console.log(`node: ${vectors.length} vectors hold`);
}

/** What does not hold of this vector, if anything. */
function problem(vector) {
  const error = verify(vector);
  if (error === undefined) return vector.verifies ? undefined : `${vector.name}: it must be refused`;
  if (vector.verifies) return `${vector.name}: it must be accepted: ${error}`;
  const isRefusal = error instanceof WebhookVerificationError && error.message === "No matching signature found";
  return isRefusal ? undefined : `${vector.name}: it must be refused for its signature: ${error}`;
}

/** The error that the library throws, if any. */
function verify(vector) {
  const headers = {
    "webhook-id": vector.id,
    "webhook-timestamp": String(vector.timestamp),
    "webhook-signature": vector.header,
  };
  // The library refuses old timestamps: its clock stands at the vector's.
  Date.now = () => vector.timestamp * 1000;
  try {
    new Webhook(vector.secret).verify(Buffer.from(vector.body), headers, { jsonParse: false });
  } catch (error) {
    return error;
  }
  return undefined;
}
