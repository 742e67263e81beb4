//! The program as its users run it: what it prints, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const CALL: &str = include_str!("../fixtures/events/call_interrupted_tool_unicode.json");
const SESSION: &str = "01979f3a-5b00-7000-8000-000000000001";
const NOBODY: &str = "01979f3a-5b00-7000-8000-0000000000ff";

/// A folder of its own to run the program in; all defaults lead into it.
struct Desk {
    folder: TempDir,
}

/// How a run ended.
struct Run {
    status: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_finalizer"));
        command.args(arguments).current_dir(self.path()).env_clear().stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }
}

impl Run {
    fn of(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        Self {
            status: status.code().unwrap(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    #[track_caller]
    fn ended(self, status: i32) -> Self {
        assert_eq!(self.status, status, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// What `--json` printed under `data`.
    fn data(&self) -> Value {
        serde_json::from_str::<Value>(&self.out).unwrap()["data"].take()
    }
}

/// A call as a line of NDJSON, changed.
fn call(changes: &[(&str, Value)]) -> String {
    let mut event: Value = serde_json::from_str(CALL).unwrap();
    for (name, value) in changes {
        event[*name] = value.clone();
    }
    format!("{event}\n")
}

#[test]
fn the_demo_finishes_with_everything_verified() {
    let desk = Desk::new();
    let run = desk.run(&["demo", "--once"]).ended(0);
    assert!(run.out.contains("Pipecat"), "{}", run.out);
    assert!(run.out.contains("READY"), "{}", run.out);
    assert!(run.out.contains("signed URL plays: yes"), "{}", run.out);
    assert_eq!(std::fs::read_dir(desk.path()).unwrap().count(), 0, "it keeps to its own folder");
}

#[test]
fn a_run_serves_until_it_is_told_to_stop() {
    let desk = Desk::new();
    let key = desk.run(&["keys", "create", "--user", "7"]).ended(0).out;
    desk.write("call.json", CALL);
    desk.run(&["ingest", "call.json"]).ended(0);

    let mut command = desk.command(&["run", "--listen", "127.0.0.1:0"]);
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let address = log.find_map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        Some(line["api.url"].as_str()?.strip_prefix("http://")?.to_owned())
    });
    let address = address.unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "GET /api/billing/sessions/{SESSION}/ HTTP/1.1\r\nHost: {address}\r\n\
         X-API-Key: {}\r\nConnection: close\r\n\r\n",
        key.trim()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(SESSION), "{answer}");

    let taken = desk.run(&["run", "--listen", &address]).ended(3);
    assert!(taken.err.contains("--listen"), "{}", taken.err);

    desk.write("other.ndjson", &call(&[("session_id", json!(NOBODY))]));
    let beside = desk.run(&["ingest", "other.ndjson", "--json"]).ended(0);
    assert_eq!(beside.data()["finalized"], 1);
    desk.run(&["check"]).ended(0);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let read = serde_json::from_str::<Value>(body).unwrap()["data"].take();
    let shown = desk.run(&["sessions", "show", SESSION]).ended(0).out;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), read);

    let terminated = Command::new("kill").arg(server.id().to_string()).status().unwrap();
    assert!(terminated.success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_file_is_ingested_once_and_shown() {
    let desk = Desk::new();
    desk.write("call.json", CALL);
    let first = desk.run(&["ingest", "call.json", "--json"]).ended(0);
    assert_eq!(
        first.data(),
        json!({ "finalized": 1, "accepted": 0, "duplicates": 0, "failed": 0 })
    );
    let again = desk.run(&["ingest", "call.json", "--json"]).ended(0);
    assert_eq!(
        again.data(),
        json!({ "finalized": 0, "accepted": 0, "duplicates": 1, "failed": 0 })
    );

    let shown = desk.run(&["sessions", "show", SESSION]).ended(0);
    let session: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(session["session_id"], SESSION);
    assert_eq!(session["recording_status"], "PENDING");
    assert_eq!(desk.run(&["sessions", "show", SESSION, "--json"]).ended(0).data(), session);
}

#[test]
fn what_fails_is_told_with_its_line_and_kept() {
    let desk = Desk::new();
    let wrong = call(&[("session_id", json!("call-17"))]);
    desk.write("calls.ndjson", &format!("{}\n{wrong}{{\n", call(&[])));
    let run = desk.run(&["ingest", "calls.ndjson"]).ended(1);
    let told: Vec<&str> = run.err.lines().collect();
    assert_eq!(told.len(), 2, "{}", run.err);
    assert!(
        told[0].starts_with("calls.ndjson:3  invalid_session_id  /session_id  "),
        "{}",
        run.err
    );
    assert!(told[1].starts_with("calls.ndjson:4  malformed_json  "), "{}", run.err);

    let list = desk.run(&["failures", "list", "--json"]).ended(0).data();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let one = desk.run(&["failures", "list", "--code", "invalid_session_id", "--json"]).ended(0);
    let failure = &one.data()[0];
    assert_eq!(failure["source"], "file:calls.ndjson:3");
    let raw = desk.run(&["failures", "show", failure["id"].as_str().unwrap(), "--raw"]).ended(0);
    assert_eq!(raw.out.trim_end(), wrong.trim_end());
}

#[test]
fn every_bad_sample_fails_with_the_code_that_it_is_named_for() {
    let desk = Desk::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bad");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut command = desk.command(&["ingest"]);
    let run = Run::of(command.args(&files).output().unwrap()).ended(1);
    // Told as they are answered, which need not be the order of the files.
    assert_eq!(run.err.lines().count(), files.len() - 1, "{}", run.err);
    for line in run.err.lines() {
        let (place, rest) = line.split_once("  ").unwrap();
        let (code, sentence) = rest.split_once("  ").unwrap();
        let name = place.rsplit('/').next().unwrap();
        assert!(name.starts_with(code) && sentence.ends_with('.'), "{line}");
    }
    let list = desk.run(&["failures", "list", "--json"]).ended(0).data();
    assert_eq!(list.as_array().unwrap().len(), files.len() - 1);
}

#[test]
fn a_dry_run_writes_nothing() {
    let desk = Desk::new();
    desk.write("call.json", CALL);
    let run = desk.run(&["ingest", "call.json", "--dry-run", "--json"]).ended(0);
    assert_eq!(run.data()[0]["session_id"], SESSION);
    assert!(run.data()[0]["turn_count"].as_i64().unwrap() > 0);
    let names: Vec<_> = std::fs::read_dir(desk.path()).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(names.len(), 1, "{names:?}");

    desk.write("bad.json", &call(&[("schema_version", json!(99))]));
    let run = desk.run(&["ingest", "bad.json", "call.json", "--dry-run"]).ended(1);
    assert!(run.err.contains("bad.json  unsupported_version  "), "{}", run.err);
    assert!(run.out.contains(SESSION), "the good one is shown all the same: {}", run.out);
}

/// A book that knows nothing but what the call spoke: its 244 characters cost 0.003660.
const VOICE_BOOK: &str = "[[price]]\nkind = \"tts\"\nprovider = \"chatterbox\"\n\
                          model = \"chatterbox-en-v1\"\nunit = \"1M characters\"\nprice = \"15\"\n";

/// What a book without them says of the call's other models; at the end with a number of sessions.
fn unpriced(sessions: Option<u32>) -> Value {
    let line = |kind: &str, model: &str| {
        let mut line = json!({"kind": kind, "provider": "openai", "model": model});
        if let Some(sessions) = sessions {
            line["sessions"] = json!(sessions);
        }
        line
    };
    json!([line("llm", "gpt-4o-mini"), line("stt", "whisper-1")])
}

#[test]
fn sessions_get_the_cost_that_the_present_price_book_gives_them() {
    let desk = Desk::new();
    let other = NOBODY.replace("00ff", "0002");
    let unended = call(&[("type", json!("session.started")), ("session_id", json!(NOBODY))]);
    let ended = call(&[("session_id", json!(other))]);
    desk.write("calls.ndjson", &format!("{}{ended}{unended}", call(&[])));
    desk.run(&["ingest", "calls.ndjson"]).ended(0);
    desk.write("prices.toml", VOICE_BOOK);
    let reprice = ["sessions", "reprice", "--prices", "prices.toml"];
    let shown = || -> Value {
        serde_json::from_str(&desk.run(&["sessions", "show", SESSION]).ended(0).out).unwrap()
    };
    let before = shown();
    assert_eq!(before["estimated_cost_usd"], "0.000690");

    let dry = desk.run(&[&reprice[..], &["--since", "2026-01-01T00:00:00Z", "--dry-run"]].concat());
    let dry = dry.ended(0);
    let row = dry.out.lines().find(|line| line.contains(SESSION)).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..3], [SESSION, "0.000690", "0.003660"]);
    assert!(row.ends_with("llm openai gpt-4o-mini, stt openai whisper-1"), "{row}");
    let told = "Sessions looked at: 2. Those that would change: 2, from 0.001380 to 0.007320 USD";
    assert!(dry.out.contains(told), "{}", dry.out);
    assert!(dry.out.contains("no price for stt openai whisper-1: sessions: 2"), "{}", dry.out);
    assert_eq!(shown(), before, "a dry run writes nothing");

    // Named twice, it is done once.
    let named = desk.run(&[&reprice[..], &[SESSION, SESSION, "--json"]].concat()).ended(0).data();
    assert_eq!(
        named,
        json!({
            "sessions": [{
                "session_id": SESSION, "old_cost_usd": "0.000690", "new_cost_usd": "0.003660",
                "unpriced": unpriced(None),
            }],
            "dry_run": false, "looked_at": 1, "changed": 1, "failed": 0,
            "old_cost_usd": "0.000690", "new_cost_usd": "0.003660", "unpriced": unpriced(Some(1)),
        })
    );
    let after = shown();
    let mut expected = before.clone();
    expected["estimated_cost_usd"] = json!("0.003660");
    expected["cost_breakdown"] = after["cost_breakdown"].clone();
    expected["version"] = json!(before["version"].as_i64().unwrap() + 1);
    assert_eq!(after, expected);
    assert_ne!(after["cost_breakdown"], before["cost_breakdown"]);

    let since = [&reprice[..], &["--since", "2026-01-01T00:00:00Z", "--json"]].concat();
    let rest = desk.run(&since).ended(0).data();
    assert_eq!((rest["looked_at"].as_i64(), rest["changed"].as_i64()), (Some(2), Some(1)));
    assert_eq!(rest["sessions"][0]["session_id"], json!(other));
    let again = desk.run(&since).ended(0).data();
    assert_eq!((again["changed"].as_i64(), &again["sessions"]), (Some(0), &json!([])));
    assert_eq!(shown(), after, "what costs the same is left alone");
    let future = [&reprice[..], &["--since", "9999-01-01T00:00:00Z", "--json"]].concat();
    assert_eq!(desk.run(&future).ended(0).data()["looked_at"], 0);
}

#[test]
fn sessions_are_repriced_to_the_last_even_if_nobody_reads_on() {
    let desk = Desk::new();
    let second = NOBODY.replace("00ff", "0002");
    desk.write("calls.ndjson", &format!("{}{}", call(&[]), call(&[("session_id", json!(second))])));
    desk.run(&["ingest", "calls.ndjson"]).ended(0);
    desk.write("text.toml", VOICE_BOOK);
    desk.write("json.toml", &VOICE_BOOK.replace("15", "30"));
    for (prices, format) in [("text.toml", &[][..]), ("json.toml", &["--json"])] {
        let since = ["sessions", "reprice", "--since", "2026-01-01T00:00:00Z", "--prices", prices];
        let mut command = desk.command(&[&since[..], format].concat());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(command.stdout(writer).status().unwrap().success());
        let left = desk.run(&[&since[..], &["--json"]].concat()).ended(0).data();
        assert_eq!((left["looked_at"].as_i64(), left["changed"].as_i64()), (Some(2), Some(0)));
    }
}

#[test]
fn sessions_that_cannot_be_repriced_are_each_named() {
    let desk = Desk::new();
    let in_progress = NOBODY.replace("00ff", "0003");
    let unended = call(&[("type", json!("session.started")), ("session_id", json!(in_progress))]);
    desk.write("calls.ndjson", &format!("{}{unended}", call(&[])));
    desk.run(&["ingest", "calls.ndjson"]).ended(0);
    desk.write("prices.toml", VOICE_BOOK);
    let arguments = ["sessions", "reprice", NOBODY, SESSION, &in_progress];
    let mut command = desk.command(&arguments);
    command.env("FINALIZER_PRICES", "prices.toml");
    let run = Run::of(command.output().unwrap()).ended(1);
    let told: Vec<&str> = run.err.lines().collect();
    assert_eq!(told.len(), 2, "{}", run.err);
    assert_eq!(told[0], format!("There is no session {NOBODY}."));
    assert!(told[1].contains(&in_progress) && told[1].contains("in progress"), "{}", run.err);
    assert!(run.out.contains("Those that changed: 1"), "the others are done: {}", run.out);
}

#[test]
fn a_reprice_that_cannot_begin_says_why() {
    let desk = Desk::new();
    for (arguments, told) in [
        (&["sessions", "reprice"][..], "SESSION"),
        (&["sessions", "reprice", SESSION, "--since", "2026-01-01T00:00:00Z"], "--since"),
        (&["sessions", "reprice", "--since", "yesterday"], "2026-05-28T14:20:43Z"),
        (&["sessions", "reprice", "call-17"], "call-17"),
        (&["sessions", "reprice", SESSION, "--prices", "none.toml"], "none.toml"),
    ] {
        let run = desk.run(arguments).ended(2);
        assert!(run.err.lines().count() == 1 && run.err.contains(told), "{}", run.err);
    }
    let run = desk.run(&["sessions", "reprice", SESSION]).ended(3);
    assert!(run.err.contains("finalizer-data/finalizer.db"), "{}", run.err);
    assert_eq!(std::fs::read_dir(desk.path()).unwrap().count(), 0, "nothing is made");
    assert!(run.out.is_empty(), "{}", run.out);
}

#[test]
fn a_session_is_erased_with_its_recording_and_copies_do_not_bring_it_back() {
    let desk = Desk::new();
    desk.write("call.json", CALL);
    let recording = include_str!("../fixtures/events/recording_complete.json");
    let mut recording: Value = serde_json::from_str(recording).unwrap();
    recording["session_id"] = json!(SESSION);
    let egress = &mut recording["egress"];
    egress.as_object_mut().unwrap().retain(|name, _| !name.starts_with("room"));
    egress["fileResults"][0]["filename"] = json!("call.mp4");
    desk.write("recording.json", &recording.to_string());
    let recordings = desk.path().join("finalizer-data/recordings");
    std::fs::create_dir_all(&recordings).unwrap();
    std::fs::write(recordings.join("call.mp4"), "what was said").unwrap();
    desk.run(&["ingest", "call.json", "recording.json"]).ended(0);
    let shown = desk.run(&["sessions", "show", SESSION]).ended(0).out;
    assert!(shown.contains("\"READY\""), "{shown}");

    // What lies in none of the places is told of, and tried again.
    let run = desk.run(&["sessions", "erase", SESSION, "--recordings", "elsewhere"]).ended(1);
    assert!(run.err.contains("call.mp4 is not deleted"), "{}", run.err);
    desk.run(&["sessions", "show", SESSION]).ended(1);
    desk.run(&["sessions", "erase", SESSION]).ended(0);
    assert_eq!(std::fs::read_dir(&recordings).unwrap().count(), 0);
    desk.run(&["sessions", "erase", SESSION]).ended(0);

    desk.run(&["ingest", "call.json", "recording.json"]).ended(0);
    desk.run(&["sessions", "show", SESSION]).ended(1);
    let run = desk.run(&["sessions", "erase", NOBODY]).ended(1);
    assert_eq!(run.err, format!("There is no session {NOBODY}.\n"));
}

#[test]
fn standard_input_is_ndjson() {
    let desk = Desk::new();
    let mut command = desk.command(&["ingest", "-", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(call(&[]).as_bytes()).unwrap();
    let run = Run::of(child.wait_with_output().unwrap()).ended(0);
    assert_eq!(run.data()["finalized"], 1);
}

#[test]
fn commands_that_only_read_make_no_database_and_say_where_they_looked() {
    let desk = Desk::new();
    for arguments in [
        ["sessions", "show", SESSION].as_slice(),
        &["failures", "list"],
        &["failures", "show", SESSION],
        &["endpoints", "list"],
        &["endpoints", "show", SESSION],
        &["endpoints", "edit", SESSION, "--payload", "full"],
        &["endpoints", "rotate-secret", SESSION],
        &["endpoints", "enable", SESSION],
        &["endpoints", "disable", SESSION],
        &["endpoints", "delete", SESSION],
        &["deliveries", "list"],
        &["deliveries", "show", SESSION],
        &["deliveries", "redeliver", SESSION],
        &["deliveries", "redeliveries"],
        &["endpoints", "ping", SESSION],
        &["keys", "list"],
    ] {
        let run = desk.run(arguments).ended(3);
        let looked_at = desk.path().canonicalize().unwrap().join("finalizer-data/finalizer.db");
        assert!(run.err.contains(&*looked_at.to_string_lossy()), "{arguments:?}: {}", run.err);
        assert_eq!(run.err.lines().count(), 1, "{arguments:?}: {}", run.err);
        assert_eq!(std::fs::read_dir(desk.path()).unwrap().count(), 0, "{arguments:?}");
    }
}

#[test]
fn what_is_not_there_is_said_and_counts_as_failed() {
    let desk = Desk::new();
    desk.run(&["migrate"]).ended(0);
    for arguments in [
        ["sessions", "show", NOBODY],
        ["failures", "show", NOBODY],
        ["endpoints", "show", NOBODY],
        ["keys", "revoke", NOBODY],
    ] {
        let run = desk.run(&arguments).ended(1);
        assert!(run.err.contains(NOBODY) && run.out.is_empty(), "{arguments:?}: {}", run.err);
    }
}

#[test]
fn an_empty_list_is_a_sentence_for_people_and_a_list_for_programs() {
    let desk = Desk::new();
    desk.run(&["migrate"]).ended(0);
    for list in [["failures", "list"], ["endpoints", "list"], ["keys", "list"]] {
        let run = desk.run(&list).ended(0);
        assert!(run.out.is_empty() && run.err.starts_with("There are no"), "{list:?}: {}", run.err);
        assert_eq!(desk.run(&[list[0], list[1], "--json"]).ended(0).data(), json!([]));
    }
}

#[test]
fn a_key_is_shown_once() {
    let desk = Desk::new();
    let made = desk.run(&["keys", "create", "--user", "7", "--name", "crm", "--json"]).ended(0);
    let key = made.data()["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("sk_") && key.len() == 67, "{key}");
    let list = desk.run(&["keys", "list"]).ended(0);
    assert!(list.out.contains("crm") && !list.out.contains(&key), "{}", list.out);
    let plain = desk.run(&["keys", "create", "--user", "7", "--staff"]).ended(0);
    assert!(plain.out.starts_with("sk_") && plain.out.lines().count() == 1, "for $(…)");
}

#[test]
fn a_revoked_key_stays_in_the_list() {
    let desk = Desk::new();
    let made = desk.run(&["keys", "create", "--user", "7", "--json"]).ended(0).data();
    let id = made["id"].as_str().unwrap();
    let run = desk.run(&["keys", "revoke", id]).ended(0);
    assert!(run.out.contains(made["key_preview"].as_str().unwrap()), "{}", run.out);
    let listed = desk.run(&["keys", "list", "--json"]).ended(0).data();
    assert_eq!(
        (&listed[0]["is_active"], &listed[0]["last_used_at"]),
        (&json!(false), &json!(null))
    );
    let again = desk.run(&["keys", "revoke", id, "--json"]).ended(0).data();
    assert_eq!(again, listed[0]);
}

#[test]
fn an_endpoint_is_added_and_its_secret_is_shown_once() {
    let desk = Desk::new();
    let url = "https://example.com/hooks";
    let add = ["endpoints", "add", url, "--owner", "7", "--events", "session.finalized", "--json"];
    let added = desk.run(&add).ended(0).data();
    let secret = added["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let id = added["id"].as_str().unwrap();
    let shown = desk.run(&["endpoints", "show", id, "--json"]).ended(0);
    assert_eq!(shown.data()["url"], url);
    assert_eq!(shown.data()["event_types"], json!(["session.finalized"]));
    assert!(!shown.out.contains(secret));
    let key = desk.path().join("finalizer-data/secret.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_endpoint_is_changed_disabled_given_another_secret_and_deleted() {
    let desk = Desk::new();
    let url = "https://example.com/hooks";
    let add = ["endpoints", "add", url, "--owner", "7", "--tenant", "acme", "--timeout", "20"];
    let own = ["--header", "X-Env: prod", "--rate-limit", "60", "--json"];
    let added = desk.run(&[&add[..], &own].concat()).ended(0).data();
    assert_eq!(
        (&added["header_names"], &added["timeout_seconds"]),
        (&json!(["x-env"]), &json!(20))
    );
    let id = added["id"].as_str().unwrap();
    let on = |command: &str, arguments: &[&str]| {
        desk.run(&[&["endpoints", command, id, "--json"], arguments].concat())
    };
    let edit =
        ["--url", "https://example.com/new", "--payload", "full", "--clear", "tenant,headers"];
    let edited = on("edit", &edit).ended(0).data();
    assert_eq!(
        (&edited["url"], &edited["payload"]),
        (&json!("https://example.com/new"), &json!("full"))
    );
    assert_eq!((&edited["tenant_id"], &edited["header_names"]), (&json!(null), &json!([])));
    assert_eq!(edited["rate_limit_per_minute"], json!(60), "what is not named stays");
    assert_eq!(on("edit", &["--url", "http://10.0.0.1/"]).ended(2).out, "");

    let rotated = on("rotate-secret", &[]).ended(0).data();
    assert_ne!(rotated["secret"], added["secret"]);
    assert_eq!(rotated["old_secrets_end_at"].as_array().unwrap().len(), 1);
    let secret = rotated["secret"].as_str().unwrap();
    on("rotate-secret", &["--secret", secret]).ended(2);
    on("rotate-secret", &["--overlap", "8d"]).ended(2);
    let rotated = on("rotate-secret", &["--overlap", "0s"]).ended(0).data();
    assert_eq!(rotated["old_secrets_end_at"], json!([]));

    assert_eq!(on("disable", &[]).ended(0).data()["disabled_reason"], json!("by_hand"));
    let list = desk.run(&["endpoints", "list"]).ended(0);
    assert!(list.out.contains("disabled: by_hand"), "{}", list.out);
    assert_eq!(on("enable", &[]).ended(0).data()["disabled_reason"], json!(null));
    on("delete", &[]).ended(0);
    on("delete", &[]).ended(1);
    on("show", &[]).ended(1);
}

#[test]
fn what_became_of_webhooks_is_shown_and_sent_again() {
    let desk = Desk::new();
    let add = ["endpoints", "add", "https://example.com/", "--owner", "7", "--json"];
    let first = desk.run(&add).ended(0).data();
    let first = first["id"].as_str().unwrap();
    desk.run(&["endpoints", "disable", first]).ended(0);
    desk.write("call.json", CALL);
    desk.run(&["ingest", "call.json"]).ended(0);
    let list = ["deliveries", "list", "--json"];
    let listed = |arguments: &[&str]| {
        let run = desk.run(&[&list[..], arguments].concat()).ended(0);
        run.data().as_array().unwrap().clone()
    };
    let all = listed(&[]);
    assert_eq!(
        (&all[0]["status"], &all[0]["cause"]),
        (&json!("cancelled"), &json!("endpoint_disabled"))
    );
    let id = all[0]["id"].as_str().unwrap();
    assert_eq!(listed(&["--session", SESSION]), all);
    assert_eq!(listed(&["--message", all[0]["message_id"].as_str().unwrap()]), all);
    assert_eq!(listed(&["--endpoint", first, "--status", "cancelled"]), all);
    assert!(listed(&["--status", "delivered"]).is_empty());
    let table = desk.run(&["deliveries", "list"]).ended(0);
    assert!(table.out.contains("cancelled: endpoint_disabled"), "{}", table.out);
    let shown = desk.run(&["deliveries", "show", id, "--json"]).ended(0).data();
    assert_eq!(shown["attempts"], json!([]));
    assert_eq!(shown["body"]["type"], json!("session.finalized"), "what would have been sent");
    desk.run(&["deliveries", "show", id]).ended(0);

    let again = ["deliveries", "redeliver", id];
    assert!(desk.run(&again).ended(1).err.contains("disabled"));
    let range = ["deliveries", "redeliver", "--endpoint", first, "--json"];
    let counted = desk.run(&[&range[..], &["--dry-run"]].concat()).ended(0).data();
    assert_eq!(counted, json!({"dry_run": true, "matched": 1}));
    desk.run(&range).ended(2);
    desk.run(&["endpoints", "enable", first]).ended(0);
    assert!(desk.run(&again).ended(0).out.contains("On their way again: 1"));
    assert_eq!(listed(&["--status", "pending"]).len(), 1);
    let ordered = [&range[..], &["--detach"]].concat();
    let job = desk.run(&ordered).ended(0).data();
    assert_eq!((&job["status"], &job["matched"]), (&json!("running"), &json!(0)));
    assert!(desk.run(&ordered).ended(1).err.contains("Another redelivery"));
    let jobs = desk.run(&["deliveries", "redeliveries"]).ended(0);
    assert!(jobs.out.contains("running"), "{}", jobs.out);

    // An endpoint that came later, and now hears of what it missed.
    let late = desk.run(&add).ended(0).data();
    let late = late["id"].as_str().unwrap();
    let missing = ["deliveries", "redeliver", "--endpoint", late, "--status", "missing", "--json"];
    let counted = desk.run(&[&missing[..], &["--dry-run"]].concat()).ended(0).data();
    assert_eq!(counted["matched"], json!(1));
    let left = desk.run(&missing).ended(0);
    assert!(left.err.contains("finalizer run"), "nobody works on it: {}", left.err);
    desk.run(&["deliveries", "show", NOBODY]).ended(1);
    desk.run(&["deliveries", "redeliver", NOBODY]).ended(1);
    desk.run(&["deliveries", "redeliver", "--endpoint", NOBODY]).ended(1);
}

#[test]
fn a_webhook_does_not_go_to_a_private_address_unless_allowed() {
    let desk = Desk::new();
    let add = ["endpoints", "add", "http://127.0.0.1:9/hooks", "--owner", "all"];
    let run = desk.run(&add).ended(2);
    assert!(run.err.contains("--allow-private"), "{}", run.err);
    assert_eq!(std::fs::read_dir(desk.path()).unwrap().count(), 0, "nothing was made");
    desk.run(&[&add[..], &["--allow-private", "127.0.0.0/8"]].concat()).ended(0);
}

#[test]
fn a_ping_is_a_webhook_that_verifies() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks", receiver.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = receiver.accept().unwrap();
        let (mut request, mut piece) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"}") {
            let count = stream.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..count]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        String::from_utf8(request).unwrap()
    });

    let desk = Desk::new();
    let allowed = ["--allow-private", "127.0.0.0/8", "--json"];
    let add = [&["endpoints", "add", &url, "--owner", "7"], &allowed[..]].concat();
    let added = desk.run(&add).ended(0).data();
    let ping = [&["endpoints", "ping", added["id"].as_str().unwrap()], &allowed[..]].concat();
    assert_eq!(desk.run(&ping).ended(0).data()["status"], 204);

    let request = serving.join().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let headers = head.lines().skip(1).map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (http::HeaderName::try_from(name).unwrap(), http::HeaderValue::try_from(value).unwrap())
    });
    let webhook = standardwebhooks::Webhook::new(added["secret"].as_str().unwrap()).unwrap();
    webhook.verify(body.as_bytes(), &headers.collect()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["type"], "endpoint.ping");
}

#[test]
fn wrong_usage_ends_with_two_and_one_sentence() {
    let desk = Desk::new();
    desk.write("prices.toml", "this is no price book");
    desk.write("key.txt", "this is no key");
    for (arguments, sentence) in [
        (vec!["run", "--database-url", "mysql://db/x"], "--database-url must be"),
        (vec!["run", "--amqp-url", "rabbit"], "--amqp-url must be"),
        (vec!["run", "--roles", "consume"], "nothing to do without --amqp-url"),
        (vec!["run", "--prices", "nowhere.toml"], "--prices: nowhere.toml"),
        (vec!["run", "--prices", "prices.toml"], "line 1: key with no value"),
        (vec!["run", "--secret-key", "aa", "--secret-key-file", "key.txt"], "not both"),
        (vec!["run", "--secret-key", "aa"], "--secret-key: "),
        (vec!["run", "--secret-key-file", "key.txt"], "--secret-key-file: key.txt"),
        (vec!["run", "--secret-key-file", "nowhere"], "--secret-key-file: nowhere"),
        (vec!["run", "--database-url", "postgres://127.0.0.1:1/x"], "key that seals"),
        (vec!["run", "--jwt-public-key", "key.txt"], "PEM"),
        (vec!["run", "--jwks-url", "http://issuer.example.com/keys"], "must be https://"),
        (vec!["run", "--recordings", "s3://"], "s3://"),
        (vec!["run", "--cors-origin", "app.example.com"], "--cors-origin"),
        (vec!["publish", "calls.ndjson"], "--amqp-url"),
        (vec!["ingest", "nowhere.json"], "nowhere.json"),
        (vec!["failures", "list", "--code", "bad_luck"], "malformed_json"),
        (vec!["sessions", "show", "sess_a1b2c3"], "sess_a1b2c3"),
        (vec!["endpoints", "add", "https://example.com/", "--owner", "me"], "`all`"),
        (vec!["endpoints", "add"], "--owner <ID|all>"),
        (
            vec!["endpoints", "add", "https://a.example/", "--owner", "7", "--timeout", "31"],
            "1 to 30",
        ),
        (
            vec!["endpoints", "add", "https://a.example/", "--owner", "7", "--header", "Host: x"],
            "host",
        ),
        (vec!["endpoints", "add", "https://a.example/", "--owner", "7", "--secret", "x"], "whsec_"),
        (vec!["endpoints", "edit", NOBODY, "--clear", "url"], "rate-limit"),
        (vec!["deliveries", "list", "--status", "lost"], "pending, delivered, exhausted"),
        (vec!["deliveries", "redeliver"], "DELIVERY"),
        (vec!["deliveries", "redeliver", "--endpoint", NOBODY, "--since", "now"], "2026-05-28T"),
        (vec!["run", "--colour", "red"], "--colour"),
        (vec!["run", "--prefetch", "0"], "--prefetch"),
        (vec!["run", "--roles", "consume,cook"], "consume, deliver, api"),
        (vec!["run", "--abandon-after", "0s"], "--abandon-after"),
        (vec!["rum"], "'run'"),
    ] {
        // Not the API's default port: another program may have it.
        let arguments = match arguments[0] {
            "run" if !arguments.contains(&"--listen") => {
                [&arguments[..], &["--listen", "127.0.0.1:0"]].concat()
            }
            _ => arguments,
        };
        let run = desk.run(&arguments).ended(2);
        assert!(run.err.contains(sentence), "{arguments:?}: {}", run.err);
        assert_eq!(run.err.lines().count(), 1, "{arguments:?}: {}", run.err);
        assert!(run.out.is_empty(), "{arguments:?}: {}", run.out);
    }
    assert!(!desk.path().join("finalizer-data/finalizer.db").exists(), "nothing was started");
}

#[test]
fn a_dependency_that_is_not_there_ends_with_three() {
    let desk = Desk::new();
    desk.write("call.json", CALL);
    let postgres = ["--database-url", "postgres://nobody:hunter2@127.0.0.1:1/nothing"];
    let nowhere = ["--amqp-url", "amqp://guest:hunter2@127.0.0.1:1/%2f"];
    for (arguments, reason) in [
        ([&["keys", "list"], &postgres[..]].concat(), "127.0.0.1:1: Connection refused"),
        ([&["migrate"], &postgres[..]].concat(), "127.0.0.1:1: Connection refused"),
        ([&["ingest", "call.json"], &postgres[..]].concat(), "127.0.0.1:1: Connection refused"),
        ([&["publish", "call.json"], &nowhere[..]].concat(), "Connection refused"),
    ] {
        let run = desk.run(&arguments).ended(3);
        assert_eq!(run.err.lines().count(), 1, "{arguments:?}: {}", run.err);
        assert!(run.err.contains(reason), "{arguments:?}: {}", run.err);
        assert!(!run.err.contains("hunter2"), "{arguments:?}: {}", run.err);
    }
}

#[tokio::test]
async fn a_postgres_is_brought_up_to_date_by_migrate_and_by_nothing_else() {
    let desk = Desk::new();
    let url = crate::harness::empty_postgres().await;
    let key = "0123456789abcdef".repeat(4);
    let store = ["--database-url", url.as_str()];
    let run = [&["run", "--listen", "127.0.0.1:0", "--secret-key", &key], &store[..]].concat();
    for arguments in [run, [&["keys", "create", "--user", "7"], &store[..]].concat()] {
        let run = desk.run(&arguments).ended(3);
        assert!(run.err.contains("run `finalizer migrate`"), "{arguments:?}: {}", run.err);
    }
    desk.run(&[&["migrate"], &store[..]].concat()).ended(0);
    desk.run(&[&["keys", "create", "--user", "7"], &store[..]].concat()).ended(0);
    let list = desk.run(&[&["keys", "list", "--json"], &store[..]].concat()).ended(0);
    assert_eq!(list.data()[0]["user"], 7);
}

#[test]
fn a_bucket_that_is_not_there_is_said_in_one_line() {
    let desk = Desk::new();
    desk.run(&["migrate"]).ended(0);
    let mut command = desk.command(&["check", "--recordings", "s3://calls"]);
    command.envs([
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "finalizer"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        // No region and nobody to ask for it: the ordinary state outside Amazon's machines.
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]);
    let run = Run::of(command.output().unwrap()).ended(3);
    assert_eq!((run.out.lines().count(), run.err.lines().count()), (2, 1), "{}", run.err);
    let failed = run.out.lines().nth(1).unwrap();
    assert!(failed.starts_with("failed  recordings  s3://calls: "), "{failed}");
    assert!(
        failed.contains("Connection refused") && !failed.contains("ConnectorError"),
        "{failed}"
    );
}

#[test]
fn a_run_without_its_broker_is_alive_but_not_ready() {
    let desk = Desk::new();
    let mut command = Command::new("sh");
    command.current_dir(desk.path()).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    // With too few open files, which is told at the start.
    command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_finalizer")]);
    command.args(["run", "--listen", "127.0.0.1:0", "--amqp-url", "amqp://127.0.0.1:1/"]);
    let mut server = command.spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.next().unwrap().contains("only 256 files may be open"));
    let address = log.find_map(|line| {
        let line: Value = serde_json::from_str(&line).unwrap();
        Some(line["api.url"].as_str()?.strip_prefix("http://")?.to_owned())
    });
    let address = address.unwrap();
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/livez").starts_with("HTTP/1.1 200"));
    let ready = ask("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains(r#""consumer":"Events are not consumed"#), "{ready}");
    assert!(ready.contains(r#""store":null"#), "{ready}");
    let terminated = Command::new("kill").arg(server.id().to_string()).status().unwrap();
    assert!(terminated.success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn check_names_what_can_and_what_cannot_be_used() {
    let desk = Desk::new();
    desk.run(&["migrate"]).ended(0);
    let run = desk.run(&["check"]).ended(3);
    assert!(run.out.contains("there is no such folder"), "{}", run.out);
    std::fs::create_dir(desk.path().join("finalizer-data/recordings")).unwrap();
    let run = desk.run(&["check"]).ended(0);
    assert!(run.out.lines().all(|line| line.starts_with("ok ")), "{}", run.out);

    let run = desk.run(&["check", "--amqp-url", "amqp://guest:hunter2@127.0.0.1:1/"]).ended(3);
    assert!(run.out.contains("ok      store"), "{}", run.out);
    assert!(run.out.contains("failed  broker"), "{}", run.out);
    assert!(!run.out.contains("hunter2") && !run.err.contains("hunter2"), "{}", run.out);
}

#[test]
fn help_shows_no_secret_from_the_environment() {
    let desk = Desk::new();
    let mut command = desk.command(&["run", "--help"]);
    for name in ["FINALIZER_SECRET_KEY", "FINALIZER_JWT_SECRET"] {
        command.env(name, "hunter2");
    }
    command.env("FINALIZER_AMQP_URL", "amqp://guest:hunter2@rabbit/");
    command.env("FINALIZER_DATABASE_URL", "postgres://finalizer:hunter2@db/finalizer");
    let run = Run::of(command.output().unwrap()).ended(0);
    assert!(run.out.contains("FINALIZER_SECRET_KEY") && !run.out.contains("hunter2"));
}

#[test]
fn a_reader_that_stops_reading_is_no_trouble() {
    let desk = Desk::new();
    let mut command = desk.command(&["ingest", "--help"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(command.stdout(writer).status().unwrap().success());

    desk.write("call.json", CALL);
    let mut command = desk.command(&["ingest", "call.json"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(command.stdout(writer).status().unwrap().success());
}
