// How the work is going.

import { api, bars, count, h, heading, line, link, panel, region, span } from "./kit.js";

const SPANS = [["15", "15 minutes"], ["60", "hour"], ["360", "6 hours"], ["1440", "day"]];
const MOST_SAMPLES = 240;

/** What was pending each time that somebody looked, for as long as the console is open. */
const samples = [];

export const overview = {
  title: () => "Overview",
  isLive: true,
  load: ({ given, signal }) => api(`/api/overview/?minutes=${SPANS.some(([minutes]) => minutes === given.minutes) ? given.minutes : 60}`, { signal }),
  draw(data, { given, session }) {
    const now = region();
    const minutes = given.minutes ?? "60";
    const choose = h("select", { id: "span", onchange: (event) => { location.hash = `/overview?minutes=${event.currentTarget.value}`; } },
      SPANS.map(([value, name]) => h("option", { value, selected: value === minutes }, `the last ${name}`)));
    const node = h("div", null,
      h("div", { class: "title" }, heading("Overview"), h("div", { class: "field inline" }, h("label", { for: "span" }, "Shown: "), choose)), now.place);
    const update = (data) => now.draw(shown(data, session));
    update(data);
    return { node, update };
  },
};

function shown(data, session) {
  const sum = (value) => data.parts.reduce((total, part) => total + value(part), 0);
  const mean = (value, weight) => {
    const known = data.parts.filter((part) => value(part) !== null);
    const all = known.reduce((total, part) => total + weight(part), 0);
    return all ? known.reduce((total, part) => total + value(part) * weight(part), 0) / all : null;
  };
  const oldest = data.oldest_pending_at ? Math.max(0, (new Date(data.now) - new Date(data.oldest_pending_at)) / 1000) : null;
  note(data, oldest);
  const atLeast = (number, most) => (number === null ? `over ${count(most)}` : count(number));
  const tiles = [
    ["Sessions finalized", count(sum((part) => part.finalized)), "/sessions"],
    ["Call to session", span(mean((part) => part.finalize_seconds, (part) => part.finalize_timed)), null],
    ["Session to webhook", span(mean((part) => part.deliver_seconds, (part) => part.deliver_timed)), null],
    ["Backlog", atLeast(data.pending, 5000), "/deliveries?status=pending", data.pending !== 0 && "busy"],
    ["Oldest pending", span(oldest), null],
    ["Exhausted", atLeast(data.exhausted, 5000), "/deliveries?status=exhausted", data.exhausted !== 0 && "bad"],
    session.is_staff && ["Open failures", data.open_failures === null ? "many" : count(data.open_failures), "/failures", data.open_failures !== 0 && "bad"],
  ].filter(Boolean);
  const each = span(data.part_seconds);
  const cut = new Date(data.complete_since) > new Date(data.parts[0].at);
  return [
    h("ul", { class: "tiles" }, tiles.map(([name, value, path, kind]) => h("li", { class: kind || null },
      h("span", { class: "name" }, path ? link(path, name) : name), h("span", { class: "value" }, value)))),
    cut && h("p", { class: "note" }, "There is so much that only the newest is counted: choose a shorter time to see it whole."),
    h("div", { class: "charts" },
      panel("Throughput", bars(`Sessions finalized, each bar ${each}`, data.parts, [["finalized", "good", (part) => part.finalized]])),
      panel("Deliveries", bars(`Webhooks by when they became owed, each bar ${each}`, data.parts, [
        ["delivered", "good", (part) => part.delivered],
        ["not yet, or cancelled", "busy", (part) => part.owed - part.delivered - part.exhausted],
        ["exhausted", "bad", (part) => part.exhausted],
      ])),
      panel("Lag", line("From the end of a call to its session", data.parts.map((part) => ({ at: part.at, value: part.finalize_seconds })), { unit: span, kind: "good" }),
        line("From the session to its webhook", data.parts.map((part) => ({ at: part.at, value: part.deliver_seconds })), { unit: span })),
      panel("Backlog", line("Pending, since the console was opened", samples.map(({ at, pending }) => ({ at, value: pending }))),
        line("Oldest pending, since the console was opened", samples.map(({ at, oldest }) => ({ at, value: oldest })), { unit: span }),
        line("Exhausted, since the console was opened", samples.map(({ at, exhausted }) => ({ at, value: exhausted })), { kind: "bad" }))),
  ];
}

function note(data, oldest) {
  if (samples.at(-1)?.at === data.now) return;
  samples.push({ at: data.now, pending: data.pending ?? 5000, oldest: oldest ?? 0, exhausted: data.exhausted ?? 5000 });
  if (samples.length > MOST_SAMPLES) samples.shift();
}

/** Whoever signs in next sees nothing of it. */
export function forget() {
  samples.length = 0;
}
