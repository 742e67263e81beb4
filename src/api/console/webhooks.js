// Endpoints and how they fare; deliveries with every attempt.

import { action, answer, api, badge, count, dialog, facts, filters, foreign, h, heading, link, panel, query, region, say, span, sure, table, time } from "./kit.js";
import { jsonView, memberText } from "./json.js";

const PAGE_SIZE = 50;

// ---- endpoints ----

export const endpoints = {
  title: () => "Endpoints",
  isLive: true,
  load: ({ signal }) => api("/api/webhooks/endpoints/", { signal }),
  draw(data) {
    const rows = region();
    const update = (endpoints) => rows.draw(table("Endpoints", [
      ["URL", (endpoint) => link(`/endpoints/${endpoint.id}`, foreign(endpoint.url))],
      ["Health", health],
      ["Owner", owner],
      ["Hears of", (endpoint) => foreign(hears(endpoint))],
      ["Payload", (endpoint) => endpoint.payload],
      ["Made", (endpoint) => time(endpoint.created_at)],
    ], endpoints, "There are no endpoints."));
    update(data);
    return { node: h("div", null, heading("Endpoints"), rows.place), update };
  },
};

const owner = (endpoint) => (endpoint.owner === null ? "everyone" : `user ${endpoint.owner}`);

function hears({ event_types, tenant_id, character_slug }) {
  return [event_types.join(", ") || "everything", tenant_id && `tenant ${tenant_id}`, character_slug && `character ${character_slug}`].filter(Boolean).join("; ");
}

const REASONS = { by_hand: "by hand", gone: "it said 410", failing: "it only failed" };

function health(endpoint) {
  if (endpoint.disabled_at) return h("span", null, badge("disabled"), ` ${REASONS[endpoint.disabled_reason] ?? endpoint.disabled_reason ?? ""}`);
  if (endpoint.failing_since) {
    return h("span", null, badge("failing"), ` ${count(endpoint.failures)} failures since `, time(endpoint.failing_since),
      endpoint.percent_to_disabled > 0 && `, ${endpoint.percent_to_disabled} % of the way to being disabled`);
  }
  if (endpoint.paused_until) return h("span", null, badge("paused"), " until ", time(endpoint.paused_until));
  return badge("healthy");
}

export const endpoint = {
  title: () => "Endpoint",
  isLive: true,
  async load({ id, signal }) {
    const [endpoint, { deliveries }] = await Promise.all([
      api(`/api/webhooks/endpoints/${encodeURIComponent(id)}/`, { signal }),
      api(`/api/webhooks/deliveries/${query({ endpoint_id: id, page_size: 20 })}`, { signal }),
    ]);
    return { endpoint, deliveries };
  },
  draw(data, { refresh, signal }) {
    const [head, told] = [region(), region()];
    const path = `/api/webhooks/endpoints/${data.endpoint.id}`;
    const update = ({ endpoint, deliveries }) => {
      head.draw(shown(endpoint), h("div", { class: "actions" },
        action("Ping", () => ping(path, signal)),
        action("Rotate the secret", () => rotate(path, refresh)),
        endpoint.disabled_at
          ? action("Enable", async () => { await api(`${path}/enable/`, { method: "POST" }); say("The endpoint is enabled.", "good"); await refresh(); }, { key: "able" })
          : action("Disable", () => disable(path, refresh), { kind: "danger", key: "able" })));
      told.draw(deliveryTable(deliveries, "It was owed nothing yet."), h("p", null, link(`/deliveries?endpoint_id=${endpoint.id}`, "All its deliveries")));
    };
    update(data);
    return { node: h("div", null, heading("Endpoint"), head.place, panel("Its last deliveries", told.place)), update };
  },
};

function shown(endpoint) {
  return facts([
    ["URL", foreign(endpoint.url)], ["Id", h("code", null, endpoint.id)], ["Health", health(endpoint)], ["Owner", owner(endpoint)],
    ["Hears of", foreign(hears(endpoint))], ["Payload", endpoint.payload],
    ["Own headers", endpoint.header_names?.length ? foreign(endpoint.header_names.join(", ")) : null],
    ["Timeout", span(endpoint.timeout_seconds)],
    ["Rate limit", endpoint.rate_limit_per_minute && `${count(endpoint.rate_limit_per_minute)} a minute`],
    ["Old secrets end", endpoint.old_secrets_end_at?.length ? endpoint.old_secrets_end_at.map((at) => [time(at), " "]).flat() : null],
    ["Made", time(endpoint.created_at)],
  ].map(([name, value]) => [name, Array.isArray(value) ? h("span", null, value) : value]));
}

async function ping(path, signal) {
  const pinged = await api(`${path}/ping/`, { method: "POST" });
  if (signal.aborted) return;
  await dialog(pinged.is_delivered ? "The ping arrived" : "The ping did not arrive", [
    facts([
      ["Answer", pinged.status ?? badge(pinged.error ?? "none", "bad")], ["Took", span(pinged.duration_ms / 1000)],
      ["Address", pinged.address], ["Message", h("code", null, pinged.message_id)],
    ]),
    pinged.response_body !== "" && jsonView(pinged.response_body),
  ].filter(Boolean), [["Close", null]]);
}

async function rotate(path, refresh) {
  if (!(await sure("Rotate the secret?", "A new secret signs from now on. The present one signs along for a day, so that the receiver can be changed meanwhile.", "Rotate", "primary"))) return;
  const { secret } = await api(`${path}/rotate-secret/`, { method: "POST" });
  await dialog("The new secret", [
    h("p", null, "It is shown only now. Give it to the receiver."), h("p", null, h("code", { class: "secret", id: "secret" }, secret)),
    // There is none without TLS.
    navigator.clipboard && action("Copy", async () => { await navigator.clipboard.writeText(secret); say("The secret is copied.", "good"); }),
  ], [["Done", null, "primary"]]);
  await refresh();
}

async function disable(path, refresh) {
  if (!(await sure("Disable the endpoint?", "What it is owed is cancelled. It can be sent again once the endpoint is enabled.", "Disable"))) return;
  await api(`${path}/disable/`, { method: "POST" });
  say("The endpoint is disabled.");
  await refresh();
}

// ---- deliveries ----

const STATES = [["", "any"], ["pending", "pending"], ["delivered", "delivered"], ["exhausted", "exhausted"], ["cancelled", "cancelled"]];

export const deliveries = {
  title: () => "Deliveries",
  isLive: true,
  load({ given, signal }) {
    const { status, endpoint_id, session_id, before } = given;
    return api(`/api/webhooks/deliveries/${query({ status, endpoint_id, session_id, before, page_size: PAGE_SIZE })}`, { signal });
  },
  draw(data, { given }) {
    const rows = region();
    const ids = { pattern: "[0-9a-fA-F\\-]{36}", title: "36 characters" };
    const form = filters("/deliveries", [["status", "State", STATES], ["endpoint_id", "Endpoint id", ids], ["session_id", "Session id", ids]], given);
    const update = ({ deliveries, next_before }) => rows.draw(
      deliveryTable(deliveries, "There are no deliveries here."),
      h("nav", { class: "pager", "aria-label": "Pages" },
        given.before && link(`/deliveries${query({ ...given, before: "" })}`, "← Newest"),
        next_before && link(`/deliveries${query({ ...given, before: next_before })}`, "Older →")));
    update(data);
    return { node: h("div", null, heading("Deliveries"), form, rows.place), update };
  },
};

export function deliveryTable(deliveries, nothing) {
  return table("Deliveries, the newest first", [
    ["Owed since", (delivery) => link(`/deliveries/${delivery.id}`, time(delivery.created_at))],
    ["State", state],
    ["Type", (delivery) => delivery.type],
    ["Attempts", (delivery) => count(delivery.attempts), "number"],
    ["Next attempt", (delivery) => time(delivery.next_attempt_at)],
    ["Endpoint", (delivery) => link(`/endpoints/${delivery.endpoint_id}`, h("code", null, delivery.endpoint_id.slice(-12)))],
    ["Session", (delivery) => (delivery.session_id ? link(`/sessions/${delivery.session_id}`, h("code", null, delivery.session_id.slice(-12))) : "–")],
  ], deliveries, nothing);
}

const CAUSES = { endpoint_disabled: "its endpoint is disabled", endpoint_deleted: "its endpoint is deleted", session_erased: "its session is erased" };

const state = (delivery) => h("span", null, badge(delivery.status), delivery.cause && ` ${CAUSES[delivery.cause] ?? delivery.cause}`, delivery.is_redelivery && " again");

export const delivery = {
  title: () => "Delivery",
  isLive: true,
  async load({ id, signal }) {
    const { data: delivery, text } = await answer(`/api/webhooks/deliveries/${encodeURIComponent(id)}/`, { signal });
    // It may be deleted.
    const endpoint = await api(`/api/webhooks/endpoints/${delivery.endpoint_id}/`, { signal }).catch((error) => {
      if (error.status === 404) return null;
      throw error;
    });
    return { delivery, endpoint, text };
  },
  same: ({ delivery, endpoint }) => JSON.stringify([delivery, endpoint]),
  draw(data, { refresh }) {
    const [head, tries] = [region(), region("attempts")];
    const again = async () => {
      await api(`/api/webhooks/deliveries/${data.delivery.id}/redeliver/`, { method: "POST" });
      say("The delivery is on its way again.", "good");
      await refresh();
    };
    const update = ({ delivery, endpoint }) => {
      head.draw(facts([
        ["Id", h("code", null, delivery.id)], ["State", state(delivery)], ["Type", delivery.type],
        ["Message", h("code", null, delivery.message_id)],
        ["Endpoint", link(`/endpoints/${delivery.endpoint_id}`, foreign(endpoint?.url ?? delivery.endpoint_id))],
        ["Session", delivery.session_id && link(`/sessions/${delivery.session_id}`, h("code", null, delivery.session_id))],
        ["Owed since", time(delivery.created_at)], ["Next attempt", time(delivery.next_attempt_at)], ["Ended", time(delivery.finished_at)],
      ]), h("div", { class: "actions" }, action("Redeliver", again, { kind: "primary" })));
      tries.draw(delivery.attempts.length ? [...delivery.attempts].reverse().map((attempt, at) => drawAttempt(attempt, delivery, at === 0)) : h("p", { class: "nothing" }, "It was not tried yet."));
    };
    update(data);
    return {
      node: h("div", null, heading("Delivery"), head.place, panel("Attempts, the last one first", tries.place),
        panel("Body of the request", jsonView(memberText(data.text, ["data", "body"])))),
      update,
    };
  },
};

function drawAttempt(attempt, delivery, isOpen) {
  const isGood = attempt.status >= 200 && attempt.status < 300;
  const request = [`webhook-id: ${delivery.message_id}`, `webhook-timestamp: ${Math.floor(new Date(attempt.started_at) / 1000)}`,
    "webhook-signature: (made for each attempt, not kept)"].join("\n");
  return h("details", { class: "attempt", open: isOpen },
    h("summary", { "data-key": `attempt-${attempt.number}` }, `Attempt ${attempt.number} `, badge(attempt.status ?? attempt.error ?? "no answer", isGood ? "good" : "bad"), " ", time(attempt.started_at), ` took ${span(attempt.duration_ms / 1000)}`),
    facts([["Address", attempt.address], ["Connection", attempt.is_connection_reused ? "an earlier one" : "a new one"], ["Error", attempt.error && foreign(attempt.error)]]),
    h("h3", null, "Request"), jsonView(request),
    h("h3", null, "Response"),
    attempt.response_head || attempt.response_body ? [attempt.response_head && jsonView(attempt.response_head), attempt.response_body && jsonView(attempt.response_body)] : h("p", { class: "nothing" }, "There was none."));
}
