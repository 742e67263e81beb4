//! A recording in a browser's player: the page of `examples/reading`, in Chromium.

use axum::Router;
use axum::routing::get;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::browser::{Browser, Seen};
use crate::harness::service::{Caller, Site};
use crate::harness::{after, bytes_of, ended, fresh_id, recorded, sqlite};

const SECONDS: u32 = 60;
const BYTES_A_SECOND: u32 = 48_000 * 2 * 2;
/// Where in the file its sound begins.
const HEADER: u32 = 44;

const LOADED: &str = r#"
    const audio = document.querySelector("audio");
    if (audio.readyState < HTMLMediaElement.HAVE_METADATA) {
        await new Promise((done, fail) => {
            audio.addEventListener("loadedmetadata", done);
            audio.addEventListener("error", () => fail(new Error(audio.error.message)));
        });
    }
    const ends = (ranges) => Array.from({ length: ranges.length }, (_, index) => ranges.end(index));
    return { duration: audio.duration, seekable: ends(audio.seekable), buffered: ends(audio.buffered) };
"#;

/// The events keep coming while it plays.
const PLAYED_ON: &str = r#"
    const audio = document.querySelector("audio");
    const times = [];
    await new Promise((done, fail) => {
        audio.addEventListener("error", () => fail(new Error(audio.error.message)));
        audio.addEventListener("timeupdate", () => {
            times.push(audio.currentTime);
            if (times.length > 1 && audio.currentTime > 45.5) done();
        });
    });
    const active = Array.from(document.querySelectorAll(".active"), (turn) => turn.textContent);
    return { times, active };
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_jumps_to_a_turn_plays_on_and_shows_what_is_being_said() {
    let site = Site::embedded(sqlite().await).await;
    let process = site.start().await;
    std::fs::write(site.recordings().join("call.wav"), silence()).unwrap();
    let session = session_with_recording(&process.caller()).await;
    let link = session["recording_presigned_url"].as_str().unwrap();
    let page = Page::serve(&session).await;
    let browser = Browser::start().await;

    browser.open(&page.url).await;
    let loaded = browser.run(LOADED).await;
    assert_eq!(loaded["duration"], json!(SECONDS));
    assert_eq!(loaded["seekable"], json!([SECONDS]));
    let buffered = loaded["buffered"][0].as_f64().unwrap_or(0.0);
    assert!(buffered < 45.0, "there is nothing left to ask for: {loaded}");

    browser.click("li:nth-child(3)").await;
    let played = browser.run(PLAYED_ON).await;
    let times: Vec<f64> = serde_json::from_value(played["times"].clone()).unwrap();
    assert!(times.iter().all(|seconds| (45.0..60.0).contains(seconds)), "{times:?}");
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(played["active"], json!(["user: Thursday would be fine."]));

    let answers: Vec<Seen> =
        browser.seen().await.into_iter().filter(|seen| seen.url == link).collect();
    assert!(answers.iter().all(|answer| answer.status == 206), "{answers:?}");
    let first_bytes: Vec<u32> = answers.iter().map(first_byte).collect();
    assert!(first_bytes.iter().any(|byte| *byte > 40 * BYTES_A_SECOND), "{answers:?}");
    process.stop().await;
}

/// A call whose third turn is at the 45th second of its recording, which begins at its second one.
pub(crate) async fn session_with_recording(caller: &Caller) -> Value {
    let session_id = fresh_id();
    let mut call = ended(session_id);
    let turn = json!({"role": "user", "text": "Thursday would be fine.", "started_at": after(47)});
    call["messages"].as_array_mut().unwrap().push(turn);
    let events = bytes_of(&[call, recorded(session_id, "", "call.wav")]);
    let (status, outcomes) = caller.send_lines(&events).await;
    assert_eq!(status, StatusCode::OK, "{outcomes}");
    let (_, session) = caller.session(session_id).await;
    assert_eq!(session["recording_offset_seconds"], json!(2.0), "{session}");
    session
}

fn first_byte(answer: &Seen) -> u32 {
    let range = answer.content_range.as_deref().unwrap();
    range.strip_prefix("bytes ").unwrap().split_once('-').unwrap().0.parse().unwrap()
}

/// A minute of silence as a WAV file, more than a browser loads before it must.
pub(crate) fn silence() -> Vec<u8> {
    let sound = SECONDS * BYTES_A_SECOND;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((HEADER - 8 + sound).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    // PCM, two channels.
    file.extend([1, 0, 2, 0]);
    file.extend(48_000_u32.to_le_bytes());
    file.extend(BYTES_A_SECOND.to_le_bytes());
    // Four bytes a frame, 16 bits a sample.
    file.extend([4, 0, 16, 0]);
    file.extend(b"data");
    file.extend(sound.to_le_bytes());
    file.resize((HEADER + sound) as usize, 0);
    file
}

/// The server of a customer's page, which is not where the API is.
struct Page {
    url: String,
    _serving: JoinSet<()>,
}

impl Page {
    async fn serve(session: &Value) -> Self {
        let file = |content_type: &'static str, text: String| {
            get(async move || ([(header::CONTENT_TYPE, content_type)], text))
        };
        let example = |content_type, text: &'static str| file(content_type, text.to_owned());
        let router = Router::new()
            .route("/", example("text/html", include_str!("../../examples/reading/player.html")))
            .route(
                "/sessions.mjs",
                example("text/javascript", include_str!("../../examples/reading/sessions.mjs")),
            )
            .route("/session.json", file("application/json", session.to_string()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, _serving: serving }
    }
}
