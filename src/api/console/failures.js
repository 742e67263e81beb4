// Events that could not be finalized: why, where in them, and taking them once more.

import { action, api, badge, count, facts, filters, foreign, h, heading, link, panel, query, region, say, sure, table, time } from "./kit.js";
import { jsonView } from "./json.js";

const PAGE_SIZE = 50;
const CODES = ["malformed_json", "unsupported_type", "unsupported_version", "invalid_event", "invalid_session_id", "untimed_turns",
  "conflicting_event", "unmatched_recording", "too_large", "delivery_limit", "internal_error", "store_rejected"];
/** A longer event is to be downloaded. */
const LONGEST_SHOWN = 4 * 1024 * 1024;

export const failures = {
  title: () => "Failures",
  isLive: true,
  load({ given, signal }) {
    const { state = "open", code, character_slug, tenant_id, session_id, before } = given;
    return api(`/api/failures/${query({ state: state === "any" ? "" : state, code, character_slug, tenant_id, session_id, before, page_size: PAGE_SIZE })}`, { signal });
  },
  draw(data, { given }) {
    const rows = region();
    const form = filters("/failures", [
      ["state", "State", [["open", "open"], ["replayed", "replayed"], ["discarded", "discarded"], ["any", "any"]]],
      ["code", "Code", [["", "any"], ...CODES.map((code) => [code, code])]],
      ["tenant_id", "Tenant", {}], ["character_slug", "Character", {}],
      ["session_id", "Session id", { pattern: "[0-9a-fA-F\\-]{36}", title: "36 characters" }],
    ], { state: "open", ...given });
    const update = ({ failures, next_before }) => rows.draw(
      table("Failures, the last seen first", [
        ["Last seen", (failure) => link(`/failures/${failure.id}`, time(failure.last_seen_at))],
        ["Code", (failure) => h("code", null, failure.code)],
        ["What to change", (failure) => foreign(failure.message), "wide"],
        ["State", (failure) => badge(failure.state)],
        ["Seen", (failure) => count(failure.seen), "number"],
        ["Tenant", (failure) => foreign(failure.tenant_id)],
        ["Source", (failure) => foreign(failure.source)],
      ], failures, "There are no failures here."),
      h("nav", { class: "pager", "aria-label": "Pages" },
        given.before && link(`/failures${query({ ...given, before: "" })}`, "← Newest"),
        next_before && link(`/failures${query({ ...given, before: next_before })}`, "Older →")));
    update(data);
    return { node: h("div", null, heading("Failures"), form, rows.place), update };
  },
};

export const failure = {
  title: () => "Failure",
  // Each look fetches the whole event, which may be long.
  isLive: false,
  load: async ({ id, signal }) => {
    const { event, event_text, event_base64, ...failure } = await api(`/api/failures/${encodeURIComponent(id)}/`, { signal });
    return failure;
  },
  draw(data, { refresh, signal }) {
    const path = `/api/failures/${data.id}`;
    const [head, tried] = [region(), region()];
    const supersede = h("input", { type: "checkbox", id: "supersede" });
    const order = (more) => ({ method: "POST", body: { supersede: supersede.checked, ...more } });
    const acts = {
      "Dry run": async () => tried.draw(panel("A replay would come to", outcome(await api(`${path}/replay/`, order({ dry_run: true }))))),
      Replay: async () => {
        const done = await api(`${path}/replay/`, order({}));
        tried.draw(panel("The replay came to", outcome(done)));
        say(done.outcome === "failed" ? "It still cannot be finalized." : "The event was taken.", done.outcome === "failed" ? "bad" : "good");
        await refresh();
      },
      Discard: async () => {
        if (!(await sure("Discard the failure?", "It is closed without effect. If its event comes again, it is open again.", "Discard"))) return;
        await api(`${path}/discard/`, { method: "POST", body: {} });
        say("The failure is discarded.");
        await refresh();
      },
    };
    const update = (failure) => head.draw(reason(failure), shown(failure), failure.state === "open" && h("div", { class: "actions" },
      action("Dry run", acts["Dry run"], { kind: "primary" }), action("Replay", acts.Replay), action("Discard", acts.Discard, { kind: "danger" }),
      h("span", { class: "check" }, supersede, h("label", { for: "supersede" }, "may supersede what is known"))));
    update(data);
    const event = region();
    drawEvent(data, event, signal).catch((error) => signal.aborted || event.draw(h("p", { class: "note" }, error.message)));
    return { node: h("div", null, heading("Failure"), head.place, tried.place, panel("Event", event.place), panel("Headers", headers(data.headers))), update };
  },
};

const reason = ({ code, message, pointer }) => h("div", { class: "reason" }, h("p", null, h("code", null, code), " ", foreign(message)),
  pointer !== null && h("p", null, "At ", h("code", { class: "foreign" }, pointer === "" ? "the whole event" : pointer)));

function shown(failure) {
  return facts([
    ["Id", h("code", null, failure.id)], ["State", h("span", null, badge(failure.state), failure.outcome && ` ${failure.outcome}`, failure.is_edited && ", edited")],
    ["Session", failure.session_id && link(`/sessions/${failure.session_id}`, h("code", null, failure.session_id))],
    ["Type", failure.event_type && foreign(failure.event_type)], ["Event id", failure.event_id && foreign(failure.event_id)],
    ["Tenant", failure.tenant_id && foreign(failure.tenant_id)], ["Character", failure.character_slug && foreign(failure.character_slug)],
    ["Source", foreign(failure.source)], ["Size", `${count(failure.size_bytes)} bytes`], ["Seen", failure.seen === 1 ? "once" : `${count(failure.seen)} times`],
    ["First seen", time(failure.first_seen_at)], ["Last seen", time(failure.last_seen_at)],
    ["Replays", failure.replays > 0 ? h("span", null, `${count(failure.replays)}, the last `, time(failure.replayed_at)) : null],
    ["Being replayed since", failure.replaying_since && time(failure.replaying_since)],
    ["Closed", failure.closed_at && h("span", null, time(failure.closed_at), " by ", foreign(failure.closed_by))],
  ]);
}

function outcome({ outcome, session_id, code, message, pointer, differences }) {
  const value = (value) => foreign(typeof value === "string" ? value : JSON.stringify(value));
  return [
    facts([["Outcome", badge(outcome)], ["Session", session_id && link(`/sessions/${session_id}`, h("code", null, session_id))]]),
    code && reason({ code, message, pointer }),
    differences?.length > 0 && table("What differs from what is stored", [
      ["Field", ({ field }) => h("code", { class: "foreign" }, field)], ["Stored", ({ stored }) => value(stored)], ["Event", ({ event }) => value(event)],
    ], differences, ""),
  ].filter(Boolean);
}

/** The bytes as they came: numbers and names are not put into other words. */
async function drawEvent(failure, place, signal) {
  if (failure.raw_expired_at) return place.draw(h("p", { class: "nothing" }, "Its bytes were dropped ", time(failure.raw_expired_at), "."));
  const download = h("p", null, h("a", { href: `/api/failures/${failure.id}/raw/`, download: `failure-${failure.id}` }, "Download the bytes"));
  if (failure.size_bytes > LONGEST_SHOWN) return place.draw(h("p", { class: "nothing" }, "It is too long to be shown."), download);
  const response = await fetch(`/api/failures/${failure.id}/raw/`, { signal, cache: "no-store" });
  if (!response.ok) throw new Error("The event cannot be read.");
  const bytes = await response.arrayBuffer();
  // A byte order mark may be what is wrong, and cannot be seen.
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes).replace(/^\uFEFF/, "⟨U+FEFF⟩");
  const view = jsonView(text, { pointer: failure.pointer, remark: failure.message });
  place.draw(view, download);
  const here = view.querySelector(".here");
  if (here) view.scrollTop = here.offsetTop - view.offsetTop - view.clientHeight / 3;
}

function headers(headers) {
  return table("What the transport said of it", [
    ["Name", ({ name }) => foreign(name)], ["Value", ({ value }) => foreign(typeof value === "string" ? value : JSON.stringify(value))],
  ], headers, "There were none.");
}
