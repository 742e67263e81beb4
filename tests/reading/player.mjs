// Plays a session with something that behaves like an audio element, and prints a line of JSON for
// each time it is at: node player.mjs SESSION_ID SECONDS...

import { fetchSession, play } from "../../examples/reading/sessions.mjs";

class Audio extends EventTarget {
  src = "";
  currentTime = 0;

  reach(seconds) {
    this.currentTime = seconds;
    this.dispatchEvent(new Event("timeupdate"));
  }
}

const [sessionId, ...times] = process.argv.slice(2);
const api = { url: process.env.FINALIZER_API_URL, key: process.env.FINALIZER_API_KEY };
const audio = new Audio();
const highlighted = [];
play(await fetchSession(api, sessionId), audio, (turnIndex) => highlighted.push(turnIndex ?? null));
times.forEach((seconds) => audio.reach(Number(seconds)));
const played = await fetch(audio.src, { headers: { Range: "bytes=2-4" } });
console.log(JSON.stringify({ highlighted, status: played.status, bytes: await played.text() }));
