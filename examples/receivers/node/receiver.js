// Receives Finalizer's webhooks: verifies each one, then reads the session it tells of.
//
// The signature covers the bytes as they came. Verify first, with the raw body; parse afterwards.

import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

import { Webhook } from "standardwebhooks";

const MAX_BODY_BYTES = 2 * 1024 * 1024;

const { values: options } = parseArgs({
  options: {
    listen: { type: "string", default: "127.0.0.1:9000" },
    "api-url": { type: "string", default: "http://127.0.0.1:8080" },
    log: { type: "string", default: "webhooks.ndjson" },
  },
});
const apiUrl = options["api-url"].replace(/\/+$/, "");
const apiKey = setting("FINALIZER_API_KEY");
const webhook = new Webhook(setting("WEBHOOK_SECRET"));
const log = await open(options.log, "a");

const server = createServer((request, response) => {
  receive(request).then(
    (status) => answer(response, status),
    // A connection that breaks is no news: the webhook is sent again.
    () => response.destroy(),
  );
});
const colon = options.listen.lastIndexOf(":");
const host = options.listen.slice(0, colon);
server.listen(Number(options.listen.slice(colon + 1)), host, () => {
  console.log(`listening on http://${host}:${server.address().port}`);
});

/** The status to answer with. Whatever is not 2xx is sent again later, under the same webhook-id. */
async function receive(request) {
  if (request.method !== "POST") return 405;
  // NaN, where the length is missing.
  const length = Number(request.headers["content-length"] ?? NaN);
  if (!(length <= MAX_BODY_BYTES)) return 413;
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const webhookId = request.headers["webhook-id"] ?? null;
  const sha256 = createHash("sha256").update(body).digest("hex");
  let event;
  try {
    event = webhook.verify(body, request.headers);
  } catch {
    await note({ webhook_id: webhookId, verified: false, sha256 });
    return 400;
  }
  const sessionId = event.data.session_id ?? null;
  const status = sessionId === null ? null : await readSession(sessionId);
  await note({
    webhook_id: webhookId, type: event.type, session_id: sessionId, verified: true, status, sha256,
  });
  return status === null || status === 200 ? 204 : 503;
}

/** GETs the session; the status, or 0 when the API did not answer. */
async function readSession(sessionId) {
  try {
    const response = await fetch(
      `${apiUrl}/api/billing/sessions/${encodeURIComponent(sessionId)}/`,
      { headers: { "X-API-Key": apiKey }, signal: AbortSignal.timeout(10_000) },
    );
    if (response.ok) await response.json();
    else await response.arrayBuffer();
    return response.status;
  } catch {
    return 0;
  }
}

async function note(line) {
  await log.appendFile(`${JSON.stringify(line)}\n`);
}

function answer(response, status) {
  // The rest of the request was not read: the connection cannot carry another.
  if (!response.req.complete) response.setHeader("Connection", "close");
  response.writeHead(status).end();
}

function setting(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`set ${name} in the environment`);
    process.exit(1);
  }
  return value;
}
