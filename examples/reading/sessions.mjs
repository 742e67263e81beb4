// Reads sessions from Finalizer's API, and plays their recordings. Runs in Node and in browsers.

/** One session with all it has: `transcript` is a list of `{ role, text, turn_index, ts }`. */
export function fetchSession(api, sessionId) {
  return read(api, `${api.url}/api/billing/sessions/${encodeURIComponent(sessionId)}/`);
}

/**
 * Every session that fits `{ character_slug, tenant_id, start, end }`, the newest first. One that is
 * on two pages, because others came meanwhile, comes twice.
 */
export async function* allSessions(api, filter = {}) {
  let page = `${api.url}/api/billing/usage/?${new URLSearchParams(filter)}`;
  while (page !== null) {
    const { sessions } = await read(api, page);
    yield* sessions.data;
    page = sessions.next;
  }
}

/** The `data` of an answer; or an error, with what the API says is wrong. */
async function read(api, url) {
  const response = await fetch(url, { headers: { "X-API-Key": api.key } });
  const { success, message, data, errors } = await response.json();
  if (!success) throw new Error([message, ...(errors ?? []).map((error) => error.message)].join(" "));
  return data;
}

/**
 * Plays the session's recording in `audio`, an element of the page, and tells `highlight` the `turn_index` of
 * what is being said: undefined before anything is. Returns a function that jumps to a turn.
 */
export function play(session, audio, highlight) {
  // The recording began later than the call, from whose beginning `ts` counts.
  const offset = session.recording_offset_seconds ?? 0;
  const transcript = session.transcript.map((turn) => ({ ...turn, ts: turn.ts - offset }));
  audio.addEventListener("timeupdate", () => {
    const active = transcript.findLast((turn) => turn.ts <= audio.currentTime);
    highlight(active?.turn_index);
  });
  audio.src = session.recording_presigned_url;
  return (turnIndex) => {
    audio.currentTime = Math.max(0, transcript[turnIndex].ts);
    return audio.play();
  };
}
