// Prints sessions:
//
//   node read.mjs transcript SESSION_ID    who said what, and when
//   node read.mjs documents [SLUG]         a line of JSON for each session, to be put into a search index
//
// Of the environment: FINALIZER_API_KEY, and FINALIZER_API_URL unless it is http://127.0.0.1:8080.

import { allSessions, fetchSession } from "./sessions.mjs";

const api = {
  url: (process.env.FINALIZER_API_URL ?? "http://127.0.0.1:8080").replace(/\/+$/, ""),
  key: process.env.FINALIZER_API_KEY ?? "",
};
const [command, word] = process.argv.slice(2);
try {
  if (command === "transcript" && word) await printTranscript(word);
  else if (command === "documents") await printDocuments(word);
  else throw new Error("usage: node read.mjs transcript SESSION_ID | documents [SLUG]");
} catch (error) {
  // What `fetch` throws says no more than that it failed.
  console.error(error.cause?.message ?? error.message);
  process.exitCode = 1;
}

async function printTranscript(sessionId) {
  const { transcript } = await fetchSession(api, sessionId);
  for (const { ts, role, text } of transcript) console.log(`${ts.toFixed(1)} s, ${role}: ${text}`);
}

async function printDocuments(characterSlug) {
  for await (const session of allSessions(api, characterSlug ? { character_slug: characterSlug } : {})) {
    const document = {
      id: session.session_id,
      character: session.character_slug,
      began_at: session.created_at,
      text: session.transcript_text,
      seconds: session.session_duration_seconds,
    };
    console.log(JSON.stringify(document));
  }
}
