use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, encode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::Viewer;
use super::super::jwt::Authenticator;
use super::*;

const NOW_S: i64 = 1_780_000_000;
const SEVEN: Viewer = Viewer { user: 7, is_staff: false };

macro_rules! private_key {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/jwt/", $name, ".private.pem"))
    };
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(NOW_S + seconds, 0).unwrap()
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(private_key!("rsa")).unwrap()
}

fn p256() -> EncodingKey {
    EncodingKey::from_ec_pem(private_key!("p256")).unwrap()
}

fn ed25519() -> EncodingKey {
    EncodingKey::from_ed_pem(private_key!("ed25519")).unwrap()
}

/// The public half of a key as an issuer publishes it.
fn jwk(kid: &str, algorithm: Algorithm, key: &EncodingKey) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap();
    jwk["kid"] = json!(kid);
    jwk
}

fn rsa_jwk(kid: &str) -> Value {
    jwk(kid, Algorithm::RS256, &rsa())
}

fn ed_jwk(kid: &str) -> Value {
    jwk(kid, Algorithm::EdDSA, &ed25519())
}

fn document(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// The key with other members.
fn with(mut key: Value, members: &Value) -> Value {
    key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    key
}

fn token(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    encode(&header, &json!({"exp": NOW_S + 100_000, "user_id": 7}), key).unwrap()
}

fn rsa_token(kid: &str) -> String {
    token(Algorithm::RS256, Some(kid), &rsa())
}

fn ed_token(kid: &str) -> String {
    token(Algorithm::EdDSA, Some(kid), &ed25519())
}

/// An issuer that publishes what it is told to, and counts who asks.
struct Issuer {
    answer: Arc<Mutex<(StatusCode, String)>>,
    requests: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

type Published = (Arc<Mutex<(StatusCode, String)>>, Arc<AtomicUsize>);

impl Issuer {
    /// With somebody who knows it.
    async fn start(keys: &[Value]) -> (Self, Authenticator) {
        let answer = Arc::new(Mutex::new((StatusCode::OK, document(keys))));
        let requests = Arc::<AtomicUsize>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys.json?of=us", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/keys.json", axum::routing::get(publish))
            .with_state((Arc::clone(&answer), Arc::clone(&requests)));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let authenticator = Authenticator::default().with_published(&url).unwrap();
        (Self { answer, requests, _serving: serving }, authenticator)
    }

    fn answers(&self, status: StatusCode, body: impl Into<String>) {
        *self.answer.lock().unwrap() = (status, body.into());
    }

    fn publishes(&self, keys: &[Value]) {
        self.answers(StatusCode::OK, document(keys));
    }

    fn asked(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn publish(State((answer, requests)): State<Published>) -> Response<Body> {
    requests.fetch_add(1, Ordering::SeqCst);
    let (status, body) = answer.lock().unwrap().clone();
    let response = Response::builder().status(status).header("location", "/keys.json");
    response.body(Body::from(body)).unwrap()
}

async fn knows(authenticator: &Authenticator, token: &str, seconds: i64) -> bool {
    match authenticator.viewer(token, at(seconds)).await {
        Ok(viewer) => {
            assert_eq!(viewer, SEVEN);
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn each_kind_of_published_key_verifies_the_tokens_that_name_it() {
    let kinds = [
        ("r", Algorithm::RS256, rsa()),
        ("e", Algorithm::ES256, p256()),
        ("d", Algorithm::EdDSA, ed25519()),
    ];
    let keys: Vec<_> = kinds.iter().map(|(kid, alg, key)| jwk(kid, *alg, key)).collect();
    let (_issuer, authenticator) = Issuer::start(&keys).await;
    for (kid, algorithm, key) in &kinds {
        for (named, ..) in &kinds {
            let token = token(*algorithm, Some(named), key);
            let is_known = knows(&authenticator, &token, 0).await;
            assert_eq!(is_known, kid == named, "{algorithm:?} named {named}");
        }
        let unnamed = token(*algorithm, None, key);
        assert!(knows(&authenticator, &unnamed, 0).await, "a token need not name its key");
    }
}

#[tokio::test]
async fn a_key_that_appears_is_taken_and_one_that_goes_is_refused_after_the_next_fetch() {
    let (issuer, authenticator) = Issuer::start(&[rsa_jwk("old")]).await;
    authenticator.refresh(at(0)).await;
    assert!(knows(&authenticator, &rsa_token("old"), 1).await);
    assert_eq!(issuer.asked(), 1, "what is known is not asked for");

    issuer.publishes(&[rsa_jwk("old"), ed_jwk("new")]);
    assert!(knows(&authenticator, &ed_token("new"), 61).await, "taken at once");
    assert_eq!(issuer.asked(), 2);

    issuer.publishes(&[ed_jwk("new")]);
    authenticator.refresh(at(660)).await;
    assert_eq!(issuer.asked(), 2, "the document is not ten minutes old");
    assert!(knows(&authenticator, &rsa_token("old"), 660).await);
    authenticator.refresh(at(661)).await;
    assert_eq!(issuer.asked(), 3);
    assert!(!knows(&authenticator, &rsa_token("old"), 661).await);
    assert!(knows(&authenticator, &ed_token("new"), 661).await);
    let unnamed = token(Algorithm::RS256, None, &rsa());
    assert!(!knows(&authenticator, &unnamed, 662).await, "nor without naming it");
}

#[tokio::test]
async fn tokens_that_name_unknown_keys_ask_once_a_minute() {
    let (issuer, authenticator) = Issuer::start(&[rsa_jwk("r")]).await;
    authenticator.refresh(at(0)).await;
    for kid in ["a", "b", "c"] {
        assert!(!knows(&authenticator, &rsa_token(kid), 59).await);
    }
    assert_eq!(issuer.asked(), 1);
    for kid in ["a", "b", "c"] {
        assert!(!knows(&authenticator, &rsa_token(kid), 60).await);
    }
    assert_eq!(issuer.asked(), 2);
    let secret = EncodingKey::from_secret(b"whatever");
    assert!(!knows(&authenticator, &token(Algorithm::HS256, Some("a"), &secret), 600).await);
    assert_eq!(issuer.asked(), 2, "no published key verifies by HS256");
}

#[tokio::test]
async fn all_who_wait_for_a_key_wait_for_one_request() {
    let (issuer, authenticator) = Issuer::start(&[rsa_jwk("r")]).await;
    let token = rsa_token("r");
    let all = join_all((0..10).map(|_| knows(&authenticator, &token, 0))).await;
    assert_eq!((all, issuer.asked()), (vec![true; 10], 1));
}

#[tokio::test]
async fn who_hangs_up_does_not_take_the_answer_away() {
    let (issuer, authenticator) = Issuer::start(&[rsa_jwk("r")]).await;
    let token = rsa_token("r");
    let mut hanging_up = Box::pin(authenticator.viewer(&token, at(0)));
    assert!(futures_util::poll!(&mut hanging_up).is_pending());
    drop(hanging_up);
    assert!(knows(&authenticator, &token, 1).await);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn while_the_document_cannot_be_fetched_the_last_one_is_used() {
    let (issuer, authenticator) = Issuer::start(&[rsa_jwk("r")]).await;
    authenticator.refresh(at(0)).await;
    let too_long = format!("{{\"keys\": [], \"padding\": \"{}\"}}", "x".repeat(256 * 1024));
    let answers = [
        (StatusCode::INTERNAL_SERVER_ERROR, document(&[])),
        (StatusCode::FOUND, document(&[])),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, json!({"keys": "none"}).to_string()),
        (StatusCode::OK, json!({}).to_string()),
        (StatusCode::OK, too_long),
    ];
    for (round, (status, body)) in answers.into_iter().enumerate() {
        issuer.answers(status, body);
        let seconds = 600 + 60 * i64::try_from(round).unwrap();
        authenticator.refresh(at(seconds)).await;
        assert_eq!(issuer.asked(), round + 2);
        assert!(knows(&authenticator, &rsa_token("r"), seconds).await, "round {round}");
    }
    issuer.publishes(&[]);
    authenticator.refresh(at(2000)).await;
    assert!(!knows(&authenticator, &rsa_token("r"), 2000).await, "an empty one is a good one");
}

#[tokio::test]
async fn until_there_is_a_document_tokens_are_refused() {
    let (issuer, authenticator) = Issuer::start(&[]).await;
    issuer.answers(StatusCode::SERVICE_UNAVAILABLE, "");
    authenticator.refresh(at(0)).await;
    assert!(!knows(&authenticator, &rsa_token("r"), 1).await);
    issuer.publishes(&[rsa_jwk("r")]);
    authenticator.refresh(at(59)).await;
    assert!(!knows(&authenticator, &rsa_token("r"), 59).await);
    authenticator.refresh(at(60)).await;
    assert!(knows(&authenticator, &rsa_token("r"), 60).await, "tried again after a minute");
}

#[tokio::test]
async fn an_issuer_that_never_answers_is_not_waited_for_long() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let mut published = PublishedKeys::at(&url).unwrap();
    published.source.deadline = Duration::from_millis(50);
    let error = published.source.fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout(_)), "{error}");
    drop(silent);
    let error = published.source.fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error}");
}

#[tokio::test]
async fn the_key_decides_the_algorithm_and_symmetric_keys_are_none() {
    let secret = "a secret that is published is none";
    let oct = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "YSBzZWNyZXQ"});
    let (_issuer, authenticator) = Issuer::start(&[oct, rsa_jwk("r")]).await;
    let modulus = rsa_jwk("r")["n"].as_str().unwrap().to_owned();
    for (kid, secret) in [("s", "a secret"), ("s", secret), ("r", modulus.as_str()), ("r", "")] {
        let key = EncodingKey::from_secret(secret.as_bytes());
        assert!(!knows(&authenticator, &token(Algorithm::HS256, Some(kid), &key), 0).await);
    }
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        assert!(!knows(&authenticator, &token(algorithm, Some("r"), &rsa()), 0).await);
    }
    assert!(knows(&authenticator, &rsa_token("r"), 0).await);
}

#[test]
fn keys_that_are_not_for_verifying_tokens_are_passed_over() {
    let fit = [
        rsa_jwk("plain"),
        with(rsa_jwk("for signatures"), &json!({"use": "sig", "key_ops": ["verify"]})),
        with(rsa_jwk("with more"), &json!({"x5t": "abc", "issuer": {"name": "us"}})),
    ];
    let unfit = [
        with(rsa_jwk("for secrets"), &json!({"use": "enc"})),
        with(rsa_jwk("for wrapping"), &json!({"key_ops": ["wrapKey"]})),
        with(rsa_jwk("another algorithm"), &json!({"alg": "RS512"})),
        with(rsa_jwk("private"), &json!({"d": "AAAA"})),
        with(rsa_jwk("short"), &json!({"n": "x".repeat(171)})),
        with(rsa_jwk("no base64"), &json!({"n": "=".repeat(400)})),
        with(rsa_jwk("a number"), &json!({"kid": 5})),
        with(ed_jwk("another curve"), &json!({"crv": "Ed448"})),
        with(ed_jwk("cut"), &json!({"x": "AAAA"})),
        with(jwk("another curve", Algorithm::ES256, &p256()), &json!({"crv": "P-384"})),
        json!({"kty": "oct", "kid": "symmetric", "k": "AAAA"}),
        json!({"kid": "no type"}),
        json!("no object"),
    ];
    let keys = [&unfit[..], &fit[..]].concat();
    let read = read(document(&keys).as_bytes()).unwrap();
    let kids: Vec<_> = read.iter().map(|key| key.kid.as_deref().unwrap()).collect();
    assert_eq!(kids, ["plain", "for signatures", "with more"]);
}

#[test]
fn the_document_comes_over_https_or_from_this_machine() {
    for url in [
        "https://issuer.example.com/.well-known/jwks.json",
        "https://10.0.0.1:8443/keys?version=1",
        "http://127.0.0.1:8080/keys",
        "http://[::1]/keys",
    ] {
        assert!(PublishedKeys::at(url).is_ok(), "{url}");
    }
    for url in [
        "http://issuer.example.com/keys",
        "http://localhost/keys",
        "http://10.0.0.1/keys",
        "https://user:password@issuer.example.com/keys",
        "https://issuer.example.com/keys#one",
        "ftp://127.0.0.1/keys",
        "file:///etc/keys",
        "keys.json",
        "",
    ] {
        assert_eq!(PublishedKeys::at(url).err(), Some(KeyError::JwksUrl), "{url}");
    }
}
