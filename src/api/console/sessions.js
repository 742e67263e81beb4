// Sessions: a list, and one of them with its transcript beside its recording.

import { answer, api, badge, count, dollars, facts, filters, foreign, h, heading, link, minutes, panel, query, region, table, time } from "./kit.js";
import { jsonView, memberText } from "./json.js";
import { deliveryTable } from "./webhooks.js";

const PAGE_SIZE = 25;
const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

export const sessions = {
  title: () => "Sessions",
  isLive: true,
  load({ given, signal }) {
    const { tenant_id, character_slug, start, end, page } = given;
    return api(`/api/billing/usage/${query({ tenant_id, character_slug, start, end, page, page_size: PAGE_SIZE, brief: true })}`, { signal });
  },
  draw(data, { given }) {
    const rows = region();
    const form = filters("/sessions", [
      ["tenant_id", "Tenant", {}], ["character_slug", "Character", {}],
      ["start", "From (UTC)", { type: "date" }], ["end", "To (UTC)", { type: "date" }],
    ], given);
    const find = h("form", { class: "filters", onsubmit: open },
      h("div", { class: "field wide" }, h("label", { for: "session-id" }, "Session id"),
        h("input", { id: "session-id", name: "id", autocomplete: "off", spellcheck: "false", placeholder: "36 characters" })),
      h("div", { class: "field" }, h("button", { type: "submit" }, "Open")));
    const update = ({ sessions: { data, page, next } }) => rows.draw(
      table("Sessions, the newest first", [
        ["Began", (session) => link(`/sessions/${session.session_id}`, time(session.created_at))],
        ["State", (session) => (session.finalized_at ? badge("finalized") : badge("in progress"))],
        ["Character", (session) => foreign(session.character_slug)],
        ["Tenant", (session) => foreign(session.tenant_id)],
        ["Length", (session) => minutes(session.session_duration_seconds), "number"],
        ["Turns", (session) => count(session.turn_count), "number"],
        ["Cost", (session) => dollars(session.estimated_cost_usd), "number"],
        ["Recording", (session) => (session.recording_status === "NONE" ? "–" : badge(session.recording_status))],
      ], data, "There are no sessions here."),
      pager(given, page, next !== null));
    update(data);
    return { node: h("div", null, heading("Sessions"), h("div", { class: "filterbar" }, form, find), rows.place), update };
  },
};

function open(event) {
  event.preventDefault();
  const id = new FormData(event.currentTarget).get("id").trim();
  const input = event.currentTarget.elements.id;
  input.setCustomValidity(UUID.test(id) ? "" : "A session's id has 36 characters.");
  if (input.reportValidity()) location.hash = `/sessions/${id.toLowerCase()}`;
  input.addEventListener("input", () => input.setCustomValidity(""), { once: true });
}

function pager(given, page, isMore) {
  const to = (number) => `/sessions${query({ ...given, page: number === 1 ? "" : number })}`;
  return h("nav", { class: "pager", "aria-label": "Pages" },
    page > 1 && link(to(page - 1), "← Newer"), h("span", null, `Page ${page}`), isMore && link(to(page + 1), "Older →"));
}

export const session = {
  title: () => "Session",
  isLive: true,
  async load({ id, signal }) {
    const [{ data, text }, { deliveries }] = await Promise.all([
      answer(`/api/billing/sessions/${encodeURIComponent(id)}/`, { signal }),
      api(`/api/webhooks/deliveries/?session_id=${encodeURIComponent(id)}`, { signal }),
    ]);
    return { session: data, deliveries, text };
  },
  /** What was said is drawn once for each revision. */
  drawnFor: ({ session }) => session.revision,
  /** A link to the recording is another one each time: that is no change. */
  same: ({ session, deliveries }) => JSON.stringify([{ ...session, recording_presigned_url: session.recording_presigned_url !== null }, deliveries]),
  draw(data, context) {
    const [head, told, details] = [region(), region(), region()];
    const talk = conversation(data.session, context);
    const update = ({ session, deliveries }) => {
      head.draw(summary(session));
      details.draw(rest(session));
      told.draw(deliveryTable(deliveries, "Nobody is told of this session."));
      talk.update(session);
    };
    update(data);
    return {
      node: h("div", null, heading("Session"), head.place,
        talk.node, panel("Cost", costs(data.session)), panel("Webhooks", told.place), panel("Details", details.place),
        panel("Metadata", jsonView(memberText(data.text, ["data", "metadata"])))),
      update,
    };
  },
};

function summary(session) {
  return facts([
    ["State", session.finalized_at ? badge("finalized") : badge("in progress")], ["Began", time(session.created_at)],
    ["Length", minutes(session.session_duration_seconds)], ["Cost", dollars(session.estimated_cost_usd)],
    ["Character", foreign(session.character_slug)], ["Tenant", foreign(session.tenant_id)],
  ]);
}

function rest(session) {
  const used = (parts) => parts.filter(Boolean).join(" · ") || null;
  return facts([
    ["Id", h("code", null, session.session_id)], ["User", session.user],
    ["Room", session.room_name && foreign(session.room_name)], ["Origin", session.origin_url && foreign(session.origin_url)],
    ["Finalized", time(session.finalized_at)], ["Revision, version", `${session.revision}, ${session.version}`],
    ["Ended because", session.close_reason && foreign(session.close_reason)],
    ["Turns", count(session.turn_count)], ["Interruptions", count(session.interruption_count)],
    ["LLM", foreign(used([`${count(session.llm_input_tokens)} in, ${count(session.llm_output_tokens)} out`, session.llm_provider, session.llm_model]))],
    ["STT", foreign(used([`${count(session.stt_audio_seconds)} s`, session.stt_provider]))],
    ["TTS", foreign(used([`${count(session.tts_characters)} characters`, session.tts_provider]))],
    ["Recording", session.recording_status === "NONE" ? "none" : badge(session.recording_status)],
  ]);
}

/** Each line's share of the whole, as a bar. */
function costs({ cost_breakdown, estimated_cost_usd }) {
  const { lines = [], unpriced = [] } = cost_breakdown ?? {};
  const whole = Number(estimated_cost_usd);
  const name = ({ kind, provider, model }) => [kind.toUpperCase(), provider, model].filter(Boolean).join(" · ");
  const bar = (entry) => {
    const share = whole ? (100 * Number(entry.cost_usd)) / whole : 0;
    const drawn = h("span", { class: "share", "aria-hidden": "true" }, h("span", { class: "part" }));
    drawn.firstChild.style.width = `${Math.min(100, Math.max(0, share))}%`;
    return h("li", null, foreign(name(entry)), drawn, h("span", { class: "number" }, `${dollars(entry.cost_usd)}, ${Math.round(share)} %`));
  };
  return [
    lines.length ? h("ul", { class: "costs" }, lines.map(bar)) : h("p", { class: "nothing" }, "Nothing was used that costs."),
    unpriced.length > 0 && h("p", { class: "note" }, "The price book has no price for: ", unpriced.map((entry) => foreign(`${name(entry)} `))),
  ];
}

/** The transcript beside the player: what is being said is shown, a click on a turn goes there. */
function conversation(session, { signal, reload }) {
  const offset = session.recording_offset_seconds ?? 0;
  const audio = h("audio", { controls: true, preload: "metadata", "aria-label": "Recording of the call" });
  const place = region("player");
  const turns = session.transcript.map((turn) => drawTurn(turn, (ts) => {
    if (!audio.currentSrc) return;
    audio.currentTime = Math.max(0, ts - offset);
    audio.play().catch(() => {});
  }));
  let active = null;
  const follow = () => {
    const now = audio.currentTime + offset;
    const at = session.transcript.findLastIndex(({ ts }) => ts <= now + 0.001);
    const next = turns[at] ?? null;
    if (next === active) return;
    active?.removeAttribute("aria-current");
    next?.setAttribute("aria-current", "true");
    active = next;
    if (!audio.paused) showIn(list, next);
  };
  for (const name of ["timeupdate", "seeking", "play"]) audio.addEventListener(name, follow);
  // A link ends after a while: with a fresh one it goes on where it was.
  let retries = 0;
  audio.addEventListener("playing", () => { retries = 0; });
  audio.addEventListener("error", async () => {
    const [at, isPlaying] = [audio.currentTime, !audio.paused];
    const isHopeless = retries++ > 2 || audio.error?.code === MediaError.MEDIA_ERR_DECODE;
    const fresh = isHopeless ? null : await reload().catch(() => null);
    if (signal.aborted) return;
    if (!fresh?.session.recording_presigned_url) return place.draw(h("p", { class: "note" }, "The recording cannot be played."));
    audio.src = fresh.session.recording_presigned_url;
    audio.currentTime = at;
    if (isPlaying) audio.play().catch(() => {});
  });
  const stop = () => { audio.pause(); audio.removeAttribute("src"); audio.load(); };
  signal.addEventListener("abort", stop);
  const list = turns.length ? h("ol", { class: "transcript", tabindex: "0", "aria-label": "Transcript" }, turns) : h("p", { class: "nothing" }, "Nothing was said.");
  return {
    node: h("div", { class: "talk" }, panel("Recording", place.place), panel("Transcript", list)),
    update({ recording_presigned_url: url, recording_status: status, recording_url: where }) {
      if (url && !audio.hasAttribute("src")) {
        audio.src = url;
        place.draw(audio, h("p", { class: "note" }, "Press p to play or pause; choose a turn to go there."));
      } else if (!url && !(status === "READY" && audio.hasAttribute("src"))) {
        stop();
        place.draw(h("p", { class: "nothing" }, SILENT[status] ?? SILENT.NONE), where && facts([["Stored at", foreign(where)]]));
      }
    },
  };
}

const SILENT = {
  NONE: "No recording was asked for.",
  PENDING: "The recording is still being made.",
  PROCESSING: "The recording is being stored.",
  READY: "The recording is in a place that this server cannot open.",
  FAILED: "The recording failed.",
};

function drawTurn({ role, text, turn_index, ts }, jump) {
  const go = () => { if (String(getSelection()) === "") jump(ts); };
  return h("li", { class: `turn ${role === "user" ? "user" : "assistant"}`, onclick: go, "data-turn": turn_index },
    h("button", { type: "button", class: "ts", "aria-label": `Go to ${minutes(ts)}`, onclick: (event) => { event.stopPropagation(); jump(ts); } }, minutes(ts)),
    h("span", { class: "role" }, role === "user" ? "User" : "Assistant"), foreign(text));
}

/** Moves the list alone, never the page. */
function showIn(list, turn) {
  if (!turn) return;
  const [outer, inner] = [list.getBoundingClientRect(), turn.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top + 8;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom + 8;
}
