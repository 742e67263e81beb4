// The console: who is signed in, which page is open, what keeps it fresh, and its keys.

import { Refused, action, api, closeDialogs, dialog, h, heading, say, signedIn } from "./kit.js";
import { forget, overview } from "./overview.js";
import { session, sessions } from "./sessions.js";
import { deliveries, delivery, endpoint, endpoints } from "./webhooks.js";
import { failure, failures } from "./failures.js";

const REFRESH_MS = 5000;
const PAGES = { overview: [overview], sessions: [sessions, session], endpoints: [endpoints, endpoint], deliveries: [deliveries, delivery], failures: [failures, failure] };
const NAMES = [["overview", "Overview", "o"], ["sessions", "Sessions", "s"], ["endpoints", "Endpoints", "e"], ["deliveries", "Deliveries", "d"], ["failures", "Failures", "f"]];

const main = document.getElementById("main");
const top = document.getElementById("top");
/** All tabs have one cookie: the others begin anew when somebody signs in or out here. */
const tabs = new BroadcastChannel("session");
let who = null;
let open = null;
let isFresh = true;

// ---- pages ----

function address() {
  const [path, search = ""] = location.hash.slice(1).split("?");
  const [name = "", id = null] = path.split("/").filter(Boolean);
  const known = Object.hasOwn(PAGES, name) && (name !== "failures" || who.is_staff) ? name : "overview";
  const page = PAGES[known][id ? 1 : 0] ?? PAGES[known][0];
  const given = Object.fromEntries(new URLSearchParams(search));
  try {
    return { name: known, page, id: id && decodeURIComponent(id), given };
  } catch {
    return { name: known, page: NOWHERE, id: null, given };
  }
}

/** What an address leads to that is none. */
const NOWHERE = { title: () => "Not found", load: async () => { throw new Error("There is no such page."); } };

async function go() {
  if (!who) return;
  closeDialogs();
  open?.leave.abort();
  const leave = new AbortController();
  const here = { ...address(), leave, shown: null, text: "", refusal: null, looking: null };
  open = here;
  here.context = { id: here.id, given: here.given, session: who, signal: leave.signal, refresh: () => refresh(here), reload: () => here.page.load(here.context) };
  drawTop(here.name);
  main.setAttribute("aria-busy", "true");
  // Why there is nothing to be seen is on the page.
  await look(here).catch(() => {});
  if (open !== here) return;
  main.removeAttribute("aria-busy");
  document.title = `${here.page.title()} – Finalizer`;
  main.querySelector("h1")?.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function show(here, data) {
  here.shown = here.page.draw(data, here.context);
  here.text = textOf(here, data);
  here.drawnFor = here.page.drawnFor?.(data);
  main.replaceChildren(here.shown.node);
}

function refuse(here, { message }) {
  if (here.refusal === message) return;
  here.refusal = message;
  main.replaceChildren(heading("This cannot be shown"), h("p", { class: "nothing" }, message));
}

const textOf = ({ page }, data) => (page.same ? page.same(data) : JSON.stringify(data));

/** Looks; only what has changed is drawn, so that nothing moves for nothing. */
function look(here) {
  here.looking = draw(here).finally(() => { here.looking = null; });
  return here.looking;
}

async function draw(here) {
  try {
    const data = await here.page.load(here.context);
    if (open !== here) return;
    const text = textOf(here, data);
    if (!here.shown || here.page.drawnFor?.(data) !== here.drawnFor) {
      show(here, data);
    } else if (text !== here.text) {
      here.text = text;
      here.shown.update(data);
    }
    note(true);
  } catch (error) {
    if (open !== here) return;
    if (here.shown) note(false);
    else refuse(here, error);
    throw error;
  }
}

/** Looks again. A look that is under way may have begun too early to see what is wanted. */
async function refresh(here) {
  while (here.looking) await here.looking.catch(() => {});
  if (open === here) await look(here);
}

/** Looks again by itself: what could not be shown may be there now. */
function tick() {
  if (!open || open.looking || !isFresh || document.hidden || (open.shown && !open.page.isLive)) return;
  look(open).catch(() => {});
}

function lookAgain(here) {
  refresh(here).then(() => { if (open === here && here.shown) say("This is the newest."); }, (error) => say(error.message, "bad"));
}

/** Tells, quietly, that what is shown is the newest, and aloud when it ceases to be. */
function note(isGood) {
  const place = document.getElementById("fresh");
  if (!place || place.classList.contains("stale") === !isGood) return;
  place.classList.toggle("stale", !isGood);
  if (!isGood) say("The server is not answering: what is shown is not the newest.", "bad");
}

// ---- signing in and out ----

function drawTop(current) {
  if (!who) return top.replaceChildren(h("div", { class: "bar" }, brand(), h("div", { class: "tools" }, themeButton())));
  const items = NAMES.filter(([name]) => name !== "failures" || who.is_staff).map(([name, title]) =>
    h("li", null, h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title)));
  const focused = top.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  top.replaceChildren(h("div", { class: "bar" }, brand(),
    h("nav", { "aria-label": "Main" }, h("ul", null, items)),
    h("div", { class: "tools" },
      h("button", { type: "button", class: "quiet", id: "fresh", "aria-pressed": String(isFresh), title: "Keep what is shown fresh", onclick: toggleFresh }, "Live"),
      themeButton(),
      h("button", { type: "button", class: "quiet", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)", onclick: help }, "?"),
      h("span", { class: "who" }, `User ${who.user}${who.is_staff ? ", staff" : ""}`),
      h("button", { type: "button", class: "quiet", onclick: signOut }, "Sign out"))));
  if (focused) top.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

const brand = () => h("a", { class: "brand", href: "#/overview" }, h("span", { class: "mark", "aria-hidden": "true" }), "Finalizer");

function toggleFresh() {
  isFresh = !isFresh;
  document.getElementById("fresh").setAttribute("aria-pressed", String(isFresh));
  if (isFresh) refresh(open).catch(() => {});
}

function askForKey(message = null) {
  closeDialogs();
  who = null;
  signedIn(null);
  forget();
  open?.leave.abort();
  open = null;
  drawTop();
  document.title = "Sign in – Finalizer";
  const input = h("input", { id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "key-about" });
  const wrong = h("p", { class: "wrong", role: "alert" }, message);
  const signIn = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    const key = input.value.trim();
    try {
      if (!/^sk_[0-9a-f]{64}$/i.test(key)) throw new Refused(400, { message: "An API key is sk_ and 64 hexadecimal digits." });
      who = await api("/api/console/session/", { method: "POST", headers: { "X-API-Key": key } });
      signedIn(who);
      tabs.postMessage("changed");
      go();
    } catch (error) {
      wrong.textContent = error.message;
      input.focus();
    }
  };
  main.removeAttribute("aria-busy");
  main.replaceChildren(h("form", { class: "signin panel", onsubmit: signIn },
    heading("Sign in"), h("label", { for: "key" }, "API key"), input,
    h("p", { id: "key-about", class: "note" }, "It goes to this server once, for a cookie that lasts 12 hours or until the key is stopped."),
    wrong, h("button", { type: "submit", class: "primary" }, "Sign in")));
  input.focus();
}

async function signOut() {
  try {
    await api("/api/console/session/", { method: "DELETE" });
  } catch (error) {
    // Only the server can take the cookie away.
    if (error.status !== 401) return say(`You are still signed in. ${error.message}`, "bad");
  }
  tabs.postMessage("changed");
  askForKey();
}

document.addEventListener("signedout", () => { if (who) askForKey("The session has ended: sign in again."); });
tabs.addEventListener("message", () => location.reload());

// ---- light and dark ----

const isDark = () => (localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function themeButton() {
  return h("button", { type: "button", class: "quiet theme", "aria-pressed": String(isDark()), onclick: toggleTheme }, "Dark");
}

function toggleTheme() {
  localStorage.setItem("theme", isDark() ? "light" : "dark");
  drawTheme();
}

function drawTheme() {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  top.querySelector(".theme")?.setAttribute("aria-pressed", String(isDark()));
}

// ---- keys ----

const KEYS = [["g then o, s, e, d, f", "Overview, sessions, endpoints, deliveries, failures"], ["j, k", "Next, previous link in the list"], ["/", "To the first field"],
  ["r", "Look again"], ["p", "Play or pause the recording"], ["t", "Light or dark"], ["?", "This help"], ["Esc", "Close what is open"]];
let isAfterG = false;

const areKeysOn = () => localStorage.getItem("keys") !== "off";

function help() {
  const on = h("input", { type: "checkbox", id: "keys-on", checked: areKeysOn(), onchange: (event) => localStorage.setItem("keys", event.currentTarget.checked ? "on" : "off") });
  dialog("Keyboard shortcuts", [
    h("dl", { class: "keys" }, KEYS.map(([key, about]) => h("div", null, h("dt", null, h("kbd", null, key)), h("dd", null, about)))),
    h("p", { class: "check" }, on, h("label", { for: "keys-on" }, "Single keys do something")),
  ], [["Close", null]]);
}

function step(by) {
  const links = [...main.querySelectorAll("tbody tr")].map((row) => row.querySelector("a")).filter(Boolean);
  if (links.length === 0) return;
  const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by))].focus();
}

function play() {
  const audio = main.querySelector("audio");
  if (audio?.paused) audio.play().catch(() => {});
  else audio?.pause();
}

const DO = {
  j: () => step(1), k: () => step(-1), p: play, t: toggleTheme, "?": help,
  r: () => lookAgain(open),
  "/": () => main.querySelector("input, select")?.focus(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input:not([type=checkbox]), select, textarea, dialog");
  if (!who || isTyping || event.ctrlKey || event.metaKey || event.altKey || !areKeysOn()) return;
  const page = isAfterG && NAMES.find(([, , key]) => key === event.key);
  isAfterG = event.key === "g" && !isAfterG;
  if (page) location.hash = `/${page[0]}`;
  else if (Object.hasOwn(DO, event.key)) DO[event.key]();
  else return;
  event.preventDefault();
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", go);
setInterval(tick, REFRESH_MS);

async function start() {
  try {
    who = await api("/api/console/session/");
  } catch (error) {
    if (error.status === 401) return askForKey();
    return main.replaceChildren(heading("This cannot be shown"), h("p", { class: "nothing" }, error.message), action("Try again", start));
  }
  signedIn(who);
  await go();
}

drawTheme();
drawTop();
start();
