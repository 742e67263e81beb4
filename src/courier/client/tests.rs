//! POSTs to receivers that behave, and to receivers that do not.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsAcceptor;

use super::super::testing::{Receiver, Reply, nobody, ok};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Loopback is allowed, as an operator would for receivers of their own.
fn guard() -> Guard {
    Guard { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false }
}

fn client() -> Client {
    Client::new(Arc::new(guard()), ClientOptions::default())
}

async fn post(url: &str, deadline: Duration) -> Posted {
    client().post(url, HeaderMap::new(), Bytes::from_static(b"{}"), deadline).await
}

/// Gives one prepared answer after the other.
struct Answers {
    answers: Mutex<VecDeque<io::Result<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Answers {
    fn new(answers: impl IntoIterator<Item = Vec<&'static str>>) -> Arc<Self> {
        let parse = |answer: Vec<&str>| Ok(answer.iter().map(|ip| ip.parse().unwrap()).collect());
        let answers = answers.into_iter().map(parse).collect();
        Arc::new(Self { answers: Mutex::new(answers), asked: Mutex::default() })
    }
}

impl Resolve for Answers {
    fn resolve(&self, name: String) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(name);
        let answer = self.answers.lock().unwrap().pop_front();
        std::future::ready(answer.unwrap_or_else(|| Err(io::Error::other("NXDOMAIN")))).boxed()
    }
}

fn resolving(guard: Guard, answers: &Arc<Answers>) -> Client {
    let resolver: Arc<dyn Resolve> = Arc::<Answers>::clone(answers);
    Client::new(
        Arc::new(guard),
        ClientOptions { resolver: Some(resolver), extra_roots: authority() },
    )
}

fn authority() -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(include_bytes!("../testdata/authority.pem")).unwrap()]
}

/// A certificate for `receiver.test` and 127.0.0.1, made for these tests: its key protects nothing.
fn acceptor() -> TlsAcceptor {
    let certificate = include_bytes!("../testdata/receiver.pem");
    let certificates = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/receiver.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_post_arrives_as_it_was_sent() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let headers = [(http::HeaderName::from_static("webhook-id"), "msg_1".parse().unwrap())];
    let body = Bytes::from_static("{\"text\":\"héllo\"}".as_bytes());
    let posted = client().post(&receiver.url(), headers.into_iter().collect(), body, SECOND).await;
    assert_eq!((posted.status, posted.error), (Some(200), None));
    assert_eq!((&*posted.body, posted.address), (&b"ok"[..], Some(receiver.address)));
    assert_eq!(posted.head.unwrap(), "HTTP/1.1 200 OK\ncontent-length: 2");

    let request = receiver.next().await;
    assert_eq!(request.request_line, "POST /hook?key=1 HTTP/1.1");
    assert_eq!(request.headers["webhook-id"], "msg_1");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["user-agent"], AGENT);
    assert_eq!(request.headers["host"], receiver.address.to_string());
    assert_eq!(request.body, "{\"text\":\"héllo\"}".as_bytes());
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let receiver = Receiver::start(|_| ok()).await;
    let client = client();
    let mut reused = Vec::new();
    for _ in 0..3 {
        let posted = client.post(&receiver.url(), HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!((posted.status, posted.address), (Some(200), Some(receiver.address)));
        reused.push(posted.is_connection_reused);
    }
    assert_eq!(reused, [false, true, true]);
}

#[tokio::test]
async fn a_receiver_that_never_answers_costs_the_deadline_and_no_more() {
    let receiver = Receiver::start(|_| Reply::Hang).await;
    let deadline = Duration::from_millis(300);
    let posted = post(&receiver.url(), deadline).await;
    assert_eq!((posted.status, posted.error), (None, Some(PostError::Timeout)));
    assert_eq!(posted.address, Some(receiver.address));
    assert!(posted.duration >= deadline && posted.duration < deadline + SECOND);
}

#[tokio::test]
async fn a_body_that_hangs_or_drips_ends_at_the_deadline_and_the_status_counts() {
    for reply in [|| Reply::HangInBody, || Reply::Drip] {
        let receiver = Receiver::start(move |_| reply()).await;
        let deadline = Duration::from_millis(300);
        let posted = post(&receiver.url(), deadline).await;
        assert_eq!((posted.status, posted.error), (Some(200), Some(PostError::Timeout)));
        assert!(!posted.body.is_empty() && posted.body.len() < 100);
        assert!(posted.duration >= deadline && posted.duration < deadline + SECOND);
    }
}

#[tokio::test]
async fn of_a_huge_body_16_kib_are_read_and_the_connection_is_dropped() {
    let receiver = Receiver::start(|request| match request.number {
        0 => Reply::Huge(100_000_000),
        _ => ok(),
    })
    .await;
    let client = client();
    let url = receiver.url();
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), 10 * SECOND).await;
    assert_eq!((posted.status, posted.error), (Some(200), None));
    assert_eq!(posted.body.len(), MAX_BODY_BYTES);
    let again = client.post(&url, HeaderMap::new(), Bytes::new(), 10 * SECOND).await;
    assert_eq!((again.status, again.is_connection_reused), (Some(200), false));
    assert!(receiver.written.load(Ordering::SeqCst) < 50_000_000);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_keeps_its_connection() {
    let receiver = Receiver::start(|_| Reply::Say(200, "", "a".repeat(MAX_BODY_BYTES))).await;
    let client = client();
    for is_reused in [false, true] {
        let posted = client.post(&receiver.url(), HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!(posted.body.len(), MAX_BODY_BYTES);
        assert_eq!(posted.is_connection_reused, is_reused);
    }
}

#[tokio::test]
async fn endless_headers_are_refused_and_long_ones_cut() {
    let receiver = Receiver::start(|_| Reply::EndlessHeaders).await;
    let posted = post(&receiver.url(), 5 * SECOND).await;
    assert_eq!((posted.status, posted.error), (None, Some(PostError::Protocol)));

    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "é".repeat(10_000));
    let receiver = Receiver::start(move |_| Reply::Raw(long.clone().into_bytes())).await;
    let posted = post(&receiver.url(), 5 * SECOND).await;
    assert_eq!(posted.status, Some(200), "{:?}", posted.error);
    let head = posted.head.unwrap();
    assert!(head.len() <= MAX_HEAD_BYTES && head.len() > MAX_HEAD_BYTES - 4);
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    let replies: [&[u8]; 3] = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    ];
    for reply in replies {
        let receiver = Receiver::start(move |_| Reply::Raw(reply.to_vec())).await;
        let posted = post(&receiver.url(), SECOND).await;
        assert_eq!(posted.error, Some(PostError::Protocol), "{reply:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_closed_with_or_without_a_status() {
    for reply in [|| Reply::Reset, || Reply::Raw(Vec::new())] {
        let receiver = Receiver::start(move |_| reply()).await;
        let posted = post(&receiver.url(), SECOND).await;
        assert_eq!((posted.status, posted.error), (None, Some(PostError::Closed)));
        assert_eq!(posted.address, Some(receiver.address));
    }
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let receiver = Receiver::start(move |_| Reply::Raw(half.to_vec())).await;
    let posted = post(&receiver.url(), SECOND).await;
    assert_eq!((posted.status, posted.error), (Some(200), Some(PostError::Closed)));
    assert_eq!(&*posted.body, b"half");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let mut target = Receiver::start(|_| ok()).await;
    let to = format!("HTTP/1.1 307 X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url());
    let receiver = Receiver::start(move |_| Reply::Raw(to.clone().into_bytes())).await;
    assert_eq!(post(&receiver.url(), SECOND).await.status, Some(307));
    assert!(target.already().is_none());
}

#[tokio::test]
async fn nobody_there_is_a_connect_error() {
    let posted = post(&format!("http://{}/", nobody().await), SECOND).await;
    assert_eq!((posted.error, posted.address), (Some(PostError::Connect), None));
}

#[tokio::test]
async fn urls_that_may_not_be_called_are_not_called() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let strict = Client::new(Arc::new(Guard::default()), ClientOptions::default());
    let port = receiver.address.port();
    for (url, error) in [
        (format!("https://127.0.0.1:{port}/"), PostError::RefusedAddress),
        (format!("https://2130706433:{port}/"), PostError::RefusedAddress),
        (format!("http://127.0.0.1:{port}/"), PostError::RefusedAddress),
        (format!("https://me@127.0.0.1:{port}/"), PostError::InvalidUrl),
        ("mailto:me@example.com".to_owned(), PostError::InvalidUrl),
    ] {
        let posted = strict.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!((posted.status, posted.error), (None, Some(error)), "{url}");
    }
    assert!(receiver.already().is_none());
}

#[tokio::test]
async fn one_forbidden_address_condemns_the_name() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let answers = Answers::new([vec!["127.0.0.1", "10.0.0.1"], vec!["127.0.0.1", "fd00::1"]]);
    let client = resolving(guard(), &answers);
    let url = format!("https://receiver.test:{}/", receiver.address.port());
    for _ in 0..2 {
        let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!(posted.error, Some(PostError::RefusedAddress));
    }
    assert!(receiver.already().is_none());
}

#[tokio::test]
async fn a_name_that_is_bound_to_another_address_later_is_vetted_again() {
    let receiver =
        Receiver::start(|_| Reply::Say(200, "connection: close\r\n", String::new())).await;
    let answers = Answers::new([vec!["127.0.0.1"], vec!["169.254.169.254"]]);
    let client = resolving(guard(), &answers);
    let url = format!("http://receiver.test:{}/", receiver.address.port());
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
    assert_eq!(posted.status, Some(200));
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
    assert_eq!(posted.error, Some(PostError::RefusedAddress));
}

#[tokio::test]
async fn names_with_a_dot_are_looked_up_as_whole_names() {
    let answers = Answers::new([]);
    let client = resolving(guard(), &answers);
    for host in ["receiver.test", "receiver.test.", "receiver"] {
        let url = format!("https://{host}/");
        let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!(posted.error, Some(PostError::Dns));
    }
    assert_eq!(*answers.asked.lock().unwrap(), ["receiver.test.", "receiver.test.", "receiver"]);
}

#[tokio::test]
async fn a_name_may_be_called_over_http_only_inside_what_is_allowed() {
    let answers = Answers::new([vec!["1.1.1.1"]]);
    let client = resolving(guard(), &answers);
    let posted = client.post("http://receiver.test/", HeaderMap::new(), Bytes::new(), SECOND).await;
    assert_eq!(posted.error, Some(PostError::RefusedAddress));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let receiver = Receiver::start(|_| ok()).await;
    let answers = Answers::new([vec!["127.0.0.2", "127.0.0.1"]]);
    let client = resolving(guard(), &answers);
    let url = format!("http://receiver.test:{}/", receiver.address.port());
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
    assert_eq!((posted.status, posted.address), (Some(200), Some(receiver.address)));
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_counts_towards_the_deadline() {
    struct Silent;
    impl Resolve for Silent {
        fn resolve(&self, _name: String) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
            std::future::pending().boxed()
        }
    }
    let options = ClientOptions { resolver: Some(Arc::new(Silent)), ..ClientOptions::default() };
    let client = Client::new(Arc::new(guard()), options);
    let deadline = Duration::from_millis(200);
    let posted =
        client.post("https://receiver.test/", HeaderMap::new(), Bytes::new(), deadline).await;
    assert_eq!((posted.error, posted.address), (Some(PostError::Timeout), None));
}

#[tokio::test]
async fn the_system_resolves_names_and_asks_once_for_all_who_wait() {
    let resolver = SystemResolver::default();
    let (first, second) =
        (resolver.resolve("localhost".into()), resolver.resolve("localhost".into()));
    let (first, second) = tokio::join!(first, second);
    assert!(first.unwrap().iter().all(IpAddr::is_loopback));
    assert!(!second.unwrap().is_empty());
    assert!(resolver.resolve("nobody.invalid.".into()).await.is_err());
}

#[tokio::test]
async fn tls_needs_a_certificate_of_a_trusted_authority_for_this_name() {
    let receiver = Receiver::start_with(Some(acceptor()), |_| ok()).await;
    let port = receiver.address.port();
    let loopback = || Answers::new([vec!["127.0.0.1"]]);
    let at = |client: Client, host: &str| {
        let url = format!("https://{host}:{port}/");
        async move { client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await }
    };
    let trusting = resolving(guard(), &loopback());
    assert_eq!(at(trusting.clone(), "receiver.test").await.status, Some(200));
    assert_eq!(at(trusting, "127.0.0.1").await.status, Some(200));

    let misled = resolving(guard(), &loopback());
    assert_eq!(at(misled, "someone-else.test").await.error, Some(PostError::Tls));
    assert_eq!(at(client(), "127.0.0.1").await.error, Some(PostError::Tls), "unknown authority");
}

#[tokio::test]
async fn a_receiver_that_speaks_no_tls_is_a_tls_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 smtp ready\r\n").await.unwrap();
    });
    assert_eq!(post(&url, SECOND).await.error, Some(PostError::Tls));
}
