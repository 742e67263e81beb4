use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use axum::http::{Method, StatusCode, Uri};
use chrono::TimeDelta;
use url::Url;
use uuid::Uuid;

use super::*;
use crate::finalize::{Outcome, PriceBook, RecordingStatus};
use crate::intake::{NoDesk, RawEvent, prepare};
use crate::store::{Batch, OpenMode, SharedStore, Terms};

const LIFETIME: Duration = Duration::from_mins(15);

fn now() -> DateTime<Utc> {
    "2026-05-28T14:23:48Z".parse().unwrap()
}

fn places(places: &[&str]) -> Result<Places, SettingError> {
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    Places::new(&PlacesSettings {
        places: &places,
        public_url: "https://voice.example.com/base",
        link_key: [7; 32],
        link_lifetime: LIFETIME,
    })
}

/// A folder with a recording, beside a secret that no link may reach.
fn folder() -> (tempfile::TempDir, String, Places) {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().canonicalize().unwrap().join("recordings");
    std::fs::create_dir_all(root.join("acme")).unwrap();
    std::fs::write(root.join("acme/call 1.mp4"), b"0123456789").unwrap();
    std::fs::write(outside.path().join("secret.key"), b"secret").unwrap();
    let root = root.to_str().unwrap().to_owned();
    let places = places(&[&root]).unwrap();
    (outside, root, places)
}

/// `path`, `expires` and `signature` of a link.
fn parts(link: &str) -> (String, String, String) {
    let url = Url::parse(link).unwrap();
    let path = url.path().strip_prefix("/base/recordings/").unwrap().replace("%20", " ");
    let query: Vec<String> = url.query_pairs().map(|(_, value)| value.into_owned()).collect();
    (path, query[0].clone(), query[1].clone())
}

#[test]
fn the_first_place_is_the_default() {
    assert_eq!(places(&["s3://calls/eu", "/srv/calls"]).unwrap().default_url(), "s3://calls/eu");
    assert_eq!(places(&["s3://calls/"]).unwrap().default_url(), "s3://calls");
    assert_eq!(places(&["/srv/calls/"]).unwrap().default_url(), "file:///srv/calls");
    assert_eq!(places(&["file:///srv/calls"]).unwrap().default_url(), "file:///srv/calls");
    assert_eq!(places(&["/srv/./a/../calls"]).unwrap().default_url(), "file:///srv/calls");
    let relative = places(&["finalizer-data/recordings"]).unwrap().default_url();
    let here = std::env::current_dir().unwrap();
    assert_eq!(relative, format!("file://{}/finalizer-data/recordings", here.display()));
}

#[test]
fn what_is_no_place_is_refused_in_one_sentence() {
    for text in
        ["", " ", "s3://", "s3:///key", "s3://b?x", "s3://b/a/../c", "https://b/c", "file://a"]
    {
        let error = places(&[text]).err().unwrap_or_else(|| panic!("{text} was taken"));
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    assert!(places(&[]).is_err());
}

#[test]
fn a_link_lives_for_at_most_a_week() {
    let with = |link_lifetime| {
        Places::new(&PlacesSettings {
            places: &["/srv".to_owned()],
            public_url: "https://a.example",
            link_key: [7; 32],
            link_lifetime,
        })
    };
    assert!(with(Duration::ZERO).is_err());
    assert!(with(Duration::from_hours(24 * 7 + 1)).is_err());
    assert!(with(Duration::from_hours(24 * 7)).is_ok());
}

#[tokio::test]
async fn a_link_to_a_file_opens_it_until_it_expires() {
    let (_guard, root, places) = folder();
    let link = places.presign(&format!("file://{root}/acme/call 1.mp4"), now()).await.unwrap();
    assert!(
        link.starts_with("https://voice.example.com/base/recordings/acme/call%201.mp4?expires=")
    );
    let (path, expires, signature) = parts(&link);
    let open = async |at| places.open_link(&path, &expires, &signature, at).await;
    let playable = open(now()).await.unwrap();
    assert_eq!(playable.content_type, "video/mp4");
    assert_eq!(std::fs::read(playable.path).unwrap(), b"0123456789");
    assert!(open(now() + LIFETIME - TimeDelta::seconds(1)).await.is_ok());
    assert_eq!(open(now() + LIFETIME).await, Err(LinkError::Expired));
    std::fs::remove_file(format!("{root}/acme/call 1.mp4")).unwrap();
    assert_eq!(open(now()).await, Err(LinkError::Gone));
}

#[tokio::test]
async fn a_link_that_was_changed_in_any_part_does_not_open() {
    let (_guard, root, places) = folder();
    std::fs::write(format!("{root}/other.mp4"), b"other").unwrap();
    let link = places.presign(&format!("file://{root}/acme/call 1.mp4"), now()).await.unwrap();
    let (path, expires, signature) = parts(&link);
    let later = (expires.parse::<i64>().unwrap() + 3600).to_string();
    let flipped =
        format!("{}{}", if signature.starts_with('0') { "1" } else { "0" }, &signature[1..]);
    let forgeries = [
        ("other.mp4", expires.as_str(), signature.as_str()),
        (&path, &later, &signature),
        (&path, &format!("+{expires}"), &signature),
        (&path, "", &signature),
        (&path, &expires, &flipped),
        (&path, &expires, &signature[..62]),
        (&path, &expires, ""),
        ("acme/./call 1.mp4", &expires, &signature),
    ];
    for (path, expires, signature) in forgeries {
        let opened = places.open_link(path, expires, signature, now()).await;
        assert_eq!(opened, Err(LinkError::Forged), "{path} {expires} {signature}");
    }
    let stranger = Places::new(&PlacesSettings {
        places: &[root],
        public_url: "https://voice.example.com/base",
        link_key: [8; 32],
        link_lifetime: LIFETIME,
    })
    .unwrap();
    let opened = stranger.open_link(&path, &expires, &signature, now()).await;
    assert_eq!(opened, Err(LinkError::Forged), "another installation's link");
}

#[tokio::test]
async fn nothing_outside_the_folder_is_signed_or_looked_at() {
    let (guard, root, places) = folder();
    let outside = guard.path().to_str().unwrap();
    symlink(format!("{outside}/secret.key"), format!("{root}/link.mp4")).unwrap();
    symlink(outside, format!("{root}/up")).unwrap();
    symlink(format!("{root}/acme"), format!("{root}/inside")).unwrap();
    let urls = [
        format!("file://{root}/link.mp4"),
        format!("file://{root}/up/secret.key"),
        format!("file://{root}/../secret.key"),
        format!("file://{root}/acme/../../secret.key"),
        format!("file://{root}//acme/call 1.mp4"),
        format!("file://{outside}/secret.key"),
        format!("file://{root}-else/call.mp4"),
        format!("file://{root}/acme"),
        format!("file://{root}/"),
        format!("file://{root}/missing.mp4"),
        format!("{root}/acme/call 1.mp4"),
        "https://voice.example.com/base/recordings/acme/call%201.mp4".to_owned(),
        String::new(),
    ];
    for url in urls {
        assert_eq!(places.presign(&url, now()).await, None, "{url}");
        assert!(!matches!(places.head(&url).await, Ok(Some(_))), "{url}");
    }
    let inside = places.presign(&format!("file://{root}/inside/call 1.mp4"), now()).await;
    assert!(inside.is_some(), "a symbolic link that stays inside is fine");
}

#[tokio::test]
async fn a_link_of_one_folder_does_not_open_another() {
    let (_guard, root, first) = folder();
    let (_other_guard, other, _) = folder();
    let both = places(&[&other, &root]).unwrap();
    let link = first.presign(&format!("file://{root}/acme/call 1.mp4"), now()).await.unwrap();
    let (path, expires, signature) = parts(&link);
    let playable = both.open_link(&path, &expires, &signature, now()).await.unwrap();
    assert!(playable.path.starts_with(&root));
}

#[tokio::test]
async fn head_tells_the_size_or_that_there_is_nothing() {
    let (_guard, root, places) = folder();
    let head = async |url: String| places.head(&url).await;
    assert_eq!(head(format!("file://{root}/acme/call 1.mp4")).await.unwrap(), Some(10));
    assert_eq!(head(format!("file://{root}/acme/no.mp4")).await.unwrap(), None);
    assert!(matches!(head("s3://elsewhere/a.mp4".to_owned()).await, Err(PlaceError::Outside(_))));
}

#[tokio::test]
async fn the_check_names_the_folder_that_is_missing() {
    let (_guard, root, _) = folder();
    let missing = format!("{root}/nowhere");
    let results = places(&[&root, &missing]).unwrap().check().await;
    assert!(results[0].1.is_ok());
    assert_eq!(results[1].0, format!("file://{missing}"));
    assert!(results[1].1.as_ref().unwrap_err().to_string().contains(&missing));
}

#[test]
fn only_what_can_be_played_has_a_type_of_its_own() {
    assert_eq!(content_type("acme/a.b.MP4"), "video/mp4");
    assert_eq!(content_type("a.ogg"), "audio/ogg");
    for name in ["a.html", "a.svg", "a.js", "mp4", "a.", ""] {
        assert_eq!(content_type(name), "application/octet-stream", "{name}");
    }
}

// ---- S3 ----

fn client(endpoint: &str) -> aws_sdk_s3::Client {
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    let config = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
        .region(aws_config::Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(s3::https())
        .endpoint_url(endpoint)
        .build();
    aws_sdk_s3::Client::from_conf(s3::s3_config(&config).build())
}

fn buckets(endpoint: &str, texts: &[&str]) -> Places {
    Places { s3: S3::with_client(client(endpoint), LIFETIME), ..places(texts).unwrap() }
}

/// Answers like S3 as far as we ask: `calls/eu/a.mp4` is there, bucket `closed` is not ours.
/// Returns its address and the paths it was asked for.
async fn fake_s3() -> (String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let answer = async move |method: Method, uri: Uri| {
        seen.lock().unwrap().push(format!("{method} {}", uri.path()));
        let status = match uri.path() {
            "/calls/eu/a.mp4" | "/calls" | "/calls/" => StatusCode::OK,
            path if path.starts_with("/closed") => StatusCode::FORBIDDEN,
            _ => StatusCode::NOT_FOUND,
        };
        (status, [("content-length", "10")])
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    (address, asked)
}

#[tokio::test]
async fn an_object_is_signed_for_exactly_what_it_is() {
    let places = buckets("http://127.0.0.1:9", &["s3://calls/eu"]);
    let url = places.presign("s3://calls/eu/acme/a b.mp4", now()).await.unwrap();
    let url = Url::parse(&url).unwrap();
    assert_eq!(url.path(), "/calls/eu/acme/a%20b.mp4", "path style at an endpoint of one's own");
    let query: std::collections::BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(query["X-Amz-Date"], "20260528T142348Z");
    assert_eq!(query["X-Amz-Expires"], "900");
    assert_eq!(query["X-Amz-SignedHeaders"], "host", "a player sends no headers of ours");
    assert_eq!(query["response-content-type"], "video/mp4");
}

#[tokio::test]
async fn nothing_outside_the_prefix_is_signed_or_looked_at() {
    let (endpoint, asked) = fake_s3().await;
    let places = buckets(&endpoint, &["s3://calls/eu"]);
    let urls = [
        "s3://calls/a.mp4",
        "s3://calls/eu",
        "s3://calls/eu/",
        "s3://calls/europe/a.mp4",
        "s3://calls/eu/../a.mp4",
        "s3://other/eu/a.mp4",
        "s3://calls.eu/a.mp4",
        "S3://calls/eu/a.mp4",
        "s3://calls",
    ];
    for url in urls {
        assert_eq!(places.presign(url, now()).await, None, "{url}");
        assert!(matches!(places.head(url).await, Err(PlaceError::Outside(_))), "{url}");
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn head_tells_an_object_that_is_missing_from_a_bucket_that_is_closed() {
    let (endpoint, asked) = fake_s3().await;
    let places = buckets(&endpoint, &["s3://calls/eu", "s3://closed"]);
    assert_eq!(places.head("s3://calls/eu/a.mp4").await.unwrap(), Some(10));
    assert_eq!(places.head("s3://calls/eu/b.mp4").await.unwrap(), None);
    let error = places.head("s3://closed/a.mp4").await.unwrap_err().to_string();
    assert!(error.starts_with("s3://closed: we may not read it"), "{error}");
    assert_eq!(
        *asked.lock().unwrap(),
        ["HEAD /calls/eu/a.mp4", "HEAD /calls/eu/b.mp4", "HEAD /closed/a.mp4"]
    );
}

#[tokio::test]
async fn the_check_tells_what_is_wrong_with_a_bucket() {
    let (endpoint, _) = fake_s3().await;
    let places = buckets(&endpoint, &["s3://calls/eu", "s3://closed", "s3://missing"]);
    let results = places.check().await;
    assert!(results[0].1.is_ok(), "{:?}", results[0]);
    assert!(results[1].1.as_ref().unwrap_err().to_string().contains("we may not see the bucket"));
    assert!(results[2].1.as_ref().unwrap_err().to_string().contains("no such bucket"));
}

// ---- the sweep ----

struct Noon;

impl crate::clock::Clock for Noon {
    fn now(&self) -> DateTime<Utc> {
        now()
    }
}

/// Sessions whose workers stored their recordings there, finalized at noon.
async fn sessions_with(store: &SharedStore, urls: &[&str]) -> Vec<Uuid> {
    let prepared = |(number, url): (u128, &&str)| {
        let event = serde_json::json!({
            "type": "session.ended", "schema_version": 1, "event_id": "e",
            "session_id": Uuid::from_u128(number), "tenant_id": "acme",
            "character_slug": "support-bot", "character_owner": 7, "started_at": now(),
            "source": {"kind": "messages"}, "messages": [], "recording": {"url": url},
        });
        let event =
            RawEvent { bytes: event.to_string().into(), source: "test".into(), headers: None };
        prepare(event, &PriceBook::builtin(), 1 << 20, now())
    };
    let events: Vec<_> = (1..).zip(urls).map(prepared).collect();
    let terms = Terms {
        now: now(),
        public_url: "https://voice.example.com",
        recordings_place: "s3://calls/eu",
        desk: &NoDesk,
    };
    let taken = store.take(Batch { terms, events: &events }).await.unwrap();
    assert!(taken.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Finalized(_))));
    (1..).take(urls.len()).map(Uuid::from_u128).collect()
}

#[tokio::test]
async fn a_bucket_that_is_closed_keeps_no_other_recording_waiting_and_fails_none() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("test.db").display());
    let store = crate::store::open(&url, OpenMode::Create).await.unwrap();
    let (endpoint, asked) = fake_s3().await;
    let urls = ["s3://closed/c.mp4", "s3://calls/eu/a.mp4", "s3://calls/eu/b.mp4"];
    let sessions = sessions_with(&store, &urls).await;
    let metrics = Arc::<crate::metrics::Metrics>::default();
    let sweep = Sweep::new(SweepParts {
        metrics: Arc::clone(&metrics),
        store: Arc::clone(&store),
        clock: Arc::new(Noon),
        places: Arc::new(buckets(&endpoint, &["s3://calls/eu", "s3://closed"])),
        public_url: "https://voice.example.com".to_owned(),
        deadline: Duration::from_mins(30),
    });
    assert!(!sweep.look().await.unwrap());
    for (outcome, looks) in [("found", 1), ("missing", 1), ("unavailable", 1)] {
        let name = "finalizer_recording_look_duration_seconds_count";
        let line = format!("{name}{{outcome=\"{outcome}\"}} {looks}\n");
        assert!(metrics.encode().contains(&line), "{line}");
    }
    let mut states = Vec::new();
    for session_id in sessions {
        let recording = store.session(session_id).await.unwrap().unwrap().recording;
        states.push((recording.status, recording.url));
    }
    let pending = (RecordingStatus::Pending, None);
    let ready = (RecordingStatus::Ready, Some(urls[1].to_owned()));
    assert_eq!(states, [pending.clone(), ready, pending]);
    assert_eq!(asked.lock().unwrap().len(), 3);
}
