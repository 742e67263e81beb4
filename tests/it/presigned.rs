//! What `recording_presigned_url` is worth: to curl, at an S3 server that checks signatures, and at
//! a folder.

use finalizer::clock::SystemClock;
use http::StatusCode;
use serde_json::{Value, json};
use url::Url;

use crate::harness::bucket::{BUCKET, Bucket};
use crate::harness::programs::{Fetched, curl};
use crate::harness::service::{Caller, Site};
use crate::harness::{TestDesk, bytes_of, ended, fresh_id, recorded, sqlite, until};

/// With all that a signature may trip over.
const KEY: &str = "eu/acme/Gespräch 1+1 (a&b).mp4";
const OTHER_KEY: &str = "eu/acme/other.mp4";

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_url_gives_the_very_bytes_and_whatever_is_changed_is_refused() {
    let bucket = Bucket::start().await;
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    // What the recorder said of it: a player is told something else.
    bucket.put(KEY, "text/html", bytes.clone()).await;
    bucket.put(OTHER_KEY, "text/html", b"of somebody else".to_vec()).await;
    let site = bucket.holds_recordings_of(Site::embedded(sqlite().await).await, "eu");
    let process = site.start().await;
    let session = session_with_recording(&process.caller(), BUCKET, KEY).await;
    assert_eq!(session["recording_url"], json!(format!("s3://{BUCKET}/{KEY}")));
    let link = session["recording_presigned_url"].as_str().unwrap();

    let whole = curl(link, &[]);
    assert_eq!((whole.status, whole.header("content-type")), (200, "video/mp4"));
    assert!(whole.body == bytes, "they are other bytes");
    let part = curl(link, &["--range", "1000-1999"]);
    assert_eq!((part.status, part.header("content-type")), (206, "video/mp4"));
    assert_eq!(part.header("content-range"), "bytes 1000-1999/400000");
    assert!(part.body == bytes[1000..2000], "they are other bytes");

    for (what, forgery, code) in forgeries(link) {
        let answer = curl(&forgery, &[]);
        assert_eq!(answer.status, 403, "{what}: {forgery}: {}", answer.text());
        let code = format!("<Code>{code}</Code>");
        assert!(answer.text().contains(&code), "{what}: {}", answer.text());
    }
    let put = curl(link, &["--request", "PUT", "--data", "mine now"]);
    assert_eq!(put.status, 403, "a link to read is none to write: {}", put.text());
    process.stop().await;
}

/// The link with one thing changed, and how the server calls what is wrong with it.
fn forgeries(link: &str) -> [(&'static str, String, &'static str); 8] {
    const FORGED: &str = "SignatureDoesNotMatch";
    let (address, query) = link.split_once('?').unwrap();
    let other_place = Url::parse(link).unwrap().join(&format!("/{BUCKET}/{OTHER_KEY}")).unwrap();
    let with = |name: &str, change: fn(&str) -> String| {
        let parameter = query.split('&').find(|pair| pair.starts_with(name)).unwrap();
        let value = parameter.strip_prefix(name).unwrap();
        link.replace(parameter, &format!("{name}{}", change(value)))
    };
    [
        ("the signature", with("X-Amz-Signature=", with_another_first_digit), FORGED),
        ("the key", format!("{other_place}?{query}"), FORGED),
        ("the expiry", with("X-Amz-Expires=", |_| "604800".to_owned()), FORGED),
        ("the date", with("X-Amz-Date=", with_another_last_second), FORGED),
        ("the type", with("response-content-type=", |_| "text%2Fhtml".to_owned()), FORGED),
        ("an addition", format!("{link}&versionId=1"), FORGED),
        ("who signed", with("X-Amz-Credential=", |who| format!("X{who}")), "NotSignedUp"),
        ("no signature at all", address.to_owned(), "AccessDenied"),
    ]
}

fn with_another_first_digit(signature: &str) -> String {
    let digit = if signature.starts_with('0') { "1" } else { "0" };
    format!("{digit}{}", &signature[1..])
}

/// `20260528T142348Z` becomes a moment of the same ten seconds.
fn with_another_last_second(date: &str) -> String {
    let start = date.strip_suffix('Z').unwrap();
    let second = if start.ends_with('0') { "1" } else { "0" };
    format!("{}{second}Z", &start[..start.len() - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_url_is_refused_when_its_time_is_over_and_a_fresh_one_plays() {
    let bucket = Bucket::start().await;
    bucket.put(KEY, "video/mp4", b"0123456789".to_vec()).await;
    let site = bucket.holds_recordings_of(Site::embedded(sqlite().await).await, "eu");
    let site = site.with("FINALIZER_PRESIGN_LIFETIME", "1s");
    let process = site.start().await;
    let caller = process.caller();
    let session = session_with_recording(&caller, BUCKET, KEY).await;
    let session_id = session["session_id"].as_str().unwrap().parse().unwrap();
    let mut link = String::new();
    let mut plays_fresh = async || {
        let (_, session) = caller.session(session_id).await;
        link = session["recording_presigned_url"].as_str().unwrap().to_owned();
        // Signatures know whole seconds: a link made late in one is soon over.
        curl(&link, &[]).status == 200
    };
    until("a fresh link plays", &mut plays_fresh).await;
    until("a fresh link plays", &mut plays_fresh).await;
    assert!(link.contains("X-Amz-Expires=1&"), "{link}");
    let mut refused = None;
    until("it is refused", async || {
        refused = Some(curl(&link, &[])).filter(|answer| answer.status != 200);
        refused.is_some()
    })
    .await;
    let refused: Fetched = refused.unwrap();
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("Request has expired"), "{}", refused.text());
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_worker_stores_in_the_bucket_is_found_when_it_is_there() {
    let bucket = Bucket::start().await;
    let site = bucket.holds_recordings_of(Site::embedded(sqlite().await).await, "eu");
    let session_id = fresh_id();
    let mut event = ended(session_id);
    event["recording"] = json!({"url": format!("s3://{BUCKET}/{KEY}")});
    site.test.take_with(&TestDesk::closed(), SystemClock::machine_now(), &[event]).await;

    let process = site.start().await;
    let looks = |status: &str| bucket.asked().iter().filter(|look| look.ends_with(status)).count();
    until("it was looked for", async || looks(" 404") == 1).await;
    let (_, session) = process.caller().session(session_id).await;
    assert_eq!(session["recording_status"], json!("PENDING"));
    assert_eq!(session["recording_presigned_url"], json!(null));
    process.stop().await;

    bucket.put(KEY, "video/mp4", b"0123456789".to_vec()).await;
    // The next look would be in a minute.
    site.test.execute("UPDATE sessions SET recording_look_at = '1970-01-01T00:00:00+00:00'").await;
    let process = site.start().await;
    let mut session = Value::Null;
    until("it is ready", async || {
        session = process.caller().session(session_id).await.1;
        session["recording_status"] == json!("READY")
    })
    .await;
    let heads: Vec<String> =
        bucket.asked().into_iter().filter(|asked| asked.starts_with("HEAD ")).collect();
    assert_eq!(heads.len(), 2, "{heads:?}");
    assert!(heads[0].ends_with(".mp4 404") && heads[1].ends_with(".mp4 200"), "{heads:?}");
    let link = session["recording_presigned_url"].as_str().unwrap();
    assert_eq!(curl(link, &[]).body, b"0123456789");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_of_an_erased_session_is_deleted_from_the_bucket() {
    let bucket = Bucket::start().await;
    bucket.put(KEY, "video/mp4", b"0123456789".to_vec()).await;
    bucket.put(OTHER_KEY, "video/mp4", b"of somebody else".to_vec()).await;
    let site = bucket.holds_recordings_of(Site::embedded(sqlite().await).await, "eu");
    let process = site.start().await;
    let session = session_with_recording(&process.caller(), BUCKET, KEY).await;
    let other = session_with_recording(&process.caller(), BUCKET, OTHER_KEY).await;
    let link = |session: &Value| session["recording_presigned_url"].as_str().unwrap().to_owned();
    assert_eq!(curl(&link(&session), &[]).status, 200);
    let erased = site.run(&["sessions", "erase", session["session_id"].as_str().unwrap()]);
    assert!(erased.status.success(), "{erased:?}");
    assert_eq!(curl(&link(&session), &[]).status, 404, "nobody can play it");
    assert_eq!(curl(&link(&other), &[]).status, 200);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_a_folder_plays_as_what_it_is() {
    let site = Site::embedded(sqlite().await).await;
    let process = site.start().await;
    let folder = site.recordings();
    for (name, content_type) in [
        ("call.mp4", "video/mp4"),
        ("call.ogg", "audio/ogg"),
        ("call.wav", "audio/wav"),
        // It must not run as a page of ours.
        ("page.html", "application/octet-stream"),
    ] {
        std::fs::write(folder.join(name), b"0123456789").unwrap();
        let session = session_with_recording(&process.caller(), "", name).await;
        let link = session["recording_presigned_url"].as_str().unwrap();
        let whole = curl(link, &[]);
        assert_eq!((whole.status, whole.header("content-type")), (200, content_type));
        assert_eq!(whole.header("accept-ranges"), "bytes");
        let part = curl(link, &["--range", "4-"]);
        assert_eq!((part.status, part.header("content-type")), (206, content_type));
        assert_eq!((part.header("content-range"), &*part.body), ("bytes 4-9/10", &b"456789"[..]));
        assert_eq!(whole.header("x-content-type-options"), "nosniff");
        let other = link.replace("expires=", "expires=1");
        assert_eq!(curl(&other, &[]).status, 403);
    }
    process.stop().await;
}

/// Tells of a call and of its recording that is complete; the session as it then reads.
async fn session_with_recording(caller: &Caller, bucket: &str, filename: &str) -> Value {
    let session_id = fresh_id();
    let events = bytes_of(&[ended(session_id), recorded(session_id, bucket, filename)]);
    let (status, outcomes) = caller.send_lines(&events).await;
    assert_eq!(status, StatusCode::OK, "{outcomes}");
    let (_, session) = caller.session(session_id).await;
    assert_eq!(session["recording_status"], json!("READY"), "{session}");
    session
}
