//! POSTs to receivers that behave, and to receivers that do not.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::future::join_all;
use proptest::prelude::*;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::connect::Connector;
use super::super::hostile::{BOMB, HOSTILITIES, Hostile, acceptor};
use super::super::testing::{Receiver, Reply, nobody, ok};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// A certificate for `receiver.test` and 127.0.0.1.
const RECEIVER: &[u8] = include_bytes!("../testdata/receiver.pem");

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
async fn no_receiver_costs_more_than_the_deadline_and_a_bounded_response() {
    let (client, deadline) = (client(), 3 * SECOND);
    let receivers = join_all(HOSTILITIES.iter().map(|hostility| Hostile::start(*hostility))).await;
    let posts = receivers.iter().map(async |receiver| {
        let body = Bytes::from_static(b"{}");
        (receiver, client.post(&receiver.url(), HeaderMap::new(), body, deadline).await)
    });
    for (receiver, posted) in join_all(posts).await {
        let name = receiver.hostility.name;
        let outcome = (posted.status, posted.error.map(PostError::as_str));
        assert_eq!(outcome, receiver.hostility.outcome, "{name}");
        assert!(posted.duration < deadline + SECOND, "{name}: {:?}", posted.duration);
        let is_timeout = posted.error == Some(PostError::Timeout);
        assert_eq!(posted.duration >= deadline, is_timeout, "{name}: {:?}", posted.duration);
        assert!(posted.body.len() <= MAX_BODY_BYTES, "{name}");
        assert!(posted.head.is_none_or(|head| head.len() <= MAX_HEAD_BYTES), "{name}");
        // What the kernel holds between the two counts as written.
        assert!(receiver.written() < 20_000_000, "{name}: {}", receiver.written());
    }
}

#[tokio::test]
async fn the_rest_of_a_long_body_is_not_taken_for_the_next_answer() {
    let receiver = Receiver::start(|request| match request.number {
        0 => Reply::Say(200, "", "a".repeat(1_000_000)),
        _ => ok(),
    })
    .await;
    let client = client();
    let url = receiver.url();
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), 10 * SECOND).await;
    assert_eq!((posted.status, posted.error), (Some(200), None));
    assert_eq!(posted.body, vec![b'a'; MAX_BODY_BYTES]);
    let again = client.post(&url, HeaderMap::new(), Bytes::new(), 10 * SECOND).await;
    assert_eq!((again.status, again.is_connection_reused), (Some(200), false));
    assert_eq!(&*again.body, b"ok");
}

#[tokio::test]
async fn of_a_body_in_tiny_pieces_the_first_are_kept() {
    let chunks =
        format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\na\r\n".repeat(9000));
    let receiver =
        Receiver::start(move |_| Reply::Write(format!("HTTP/1.1 200 X\r\n{chunks}").into_bytes()))
            .await;
    let client = client();
    for _ in 0..2 {
        let posted = client.post(&receiver.url(), HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!((posted.status, posted.error), (Some(200), None));
        assert_eq!(posted.body, vec![b'a'; MAX_BODY_PIECES]);
        assert!(!posted.is_connection_reused);
    }
}

#[tokio::test]
async fn an_answer_that_came_before_the_request_is_not_its_answer() {
    let answer = "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";
    for surplus in [answer, "and more", "HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nhalf"] {
        let both = format!("{answer}{surplus}");
        let receiver = Receiver::start(move |request| match request.number {
            0 => Reply::Write(both.clone().into_bytes()),
            _ => Reply::Say(500, "", String::new()),
        })
        .await;
        let client = client();
        for (status, is_reused) in [(200, false), (500, false)] {
            let posted = client.post(&receiver.url(), HeaderMap::new(), Bytes::new(), SECOND).await;
            assert_eq!((posted.status, posted.error), (Some(status), None), "{surplus}");
            assert_eq!(posted.is_connection_reused, is_reused, "{surplus}");
        }
    }
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                   HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 202 X\r\ncontent-length: 2\r\n\r\nok";
    let receiver = Receiver::start(|_| Reply::Write(interim.into())).await;
    let client = client();
    for is_reused in [false, true] {
        let posted = client.post(&receiver.url(), HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!((posted.status, posted.error), (Some(202), None));
        assert_eq!((&*posted.body, posted.is_connection_reused), (&b"ok"[..], is_reused));
    }
}

#[tokio::test]
async fn a_connection_of_http_1_0_is_not_used_again() {
    let receiver =
        Receiver::start(|_| Reply::Write(b"HTTP/1.0 200 X\r\ncontent-length: 2\r\n\r\nok".into()))
            .await;
    let client = client();
    for _ in 0..2 {
        let posted = client.post(&receiver.url(), HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!((posted.status, &*posted.body), (Some(200), &b"ok"[..]));
        assert_eq!((posted.error, posted.is_connection_reused), (None, false));
        assert!(posted.head.unwrap().starts_with("HTTP/1.0 200 OK"));
    }
}

#[tokio::test]
async fn nothing_is_unpacked_and_nothing_packed_is_asked_for() {
    let mut receiver = Receiver::start(|_| {
        let head = format!("content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", BOMB.len());
        Reply::Write([b"HTTP/1.1 200 X\r\n", head.as_bytes(), BOMB].concat())
    })
    .await;
    let posted = post(&receiver.url(), SECOND).await;
    assert_eq!((posted.status, posted.error, &*posted.body), (Some(200), None, BOMB));
    let request = receiver.next().await;
    let mut names: Vec<_> = request.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "host", "user-agent"]);
}

/// Takes one connection, begins to read, answers, and then neither reads nor closes.
#[tokio::test]
async fn an_answer_counts_although_the_request_was_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let receiver = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let answer = b"HTTP/1.1 413 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream
    });
    let body = Bytes::from(vec![b'a'; 16 << 20]);
    let posted = client().post(&url, HeaderMap::new(), body, 5 * SECOND).await;
    assert_eq!((posted.status, posted.error), (Some(413), None));
    assert!(posted.duration < 4 * SECOND, "{:?}", posted.duration);
    drop(receiver.await.unwrap());
}

/// The connection is reused, so the library may think of another one; but it has begun.
#[tokio::test]
async fn a_request_that_was_begun_is_not_sent_again_when_its_connection_dies() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (client, body) = (client(), Bytes::from(vec![b'a'; 1 << 20]));
    for taken in [1, 100, 100_000] {
        let receiving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream.read_exact(&mut vec![0; taken]).await.unwrap();
            drop(stream);
        };
        let posting = async {
            let first = client.post(&url, HeaderMap::new(), Bytes::new(), 5 * SECOND).await;
            assert_eq!((first.status, first.error), (Some(200), None));
            client.post(&url, HeaderMap::new(), body.clone(), 5 * SECOND).await
        };
        let (posted, ()) = tokio::join!(posting, receiving);
        assert_eq!((posted.status, posted.error), (None, Some(PostError::Closed)), "{taken}");
        assert!(posted.is_connection_reused && posted.duration < 4 * SECOND);
        assert!(listener.accept().now_or_never().is_none(), "another connection, after {taken}");
    }
}

/// It closes after an answer, after a request, or not at all, as it pleases: each POST arrives at
/// most once, and exactly once when it is said to have been delivered.
#[tokio::test]
async fn a_receiver_that_closes_at_random_gets_no_post_twice_and_none_is_invented() {
    let said = b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";
    let mut receiver =
        Receiver::start(|request| match request.number.wrapping_mul(2_654_435_761) >> 7 & 7 {
            0 | 1 => Reply::Raw(said.into()),
            2 => Reply::Raw(Vec::new()),
            _ => Reply::Write(said.into()),
        })
        .await;
    let client = client();
    let url = receiver.url();
    let mut outcomes = Vec::new();
    for round in 0..100 {
        let posts = (0..5).map(|n| {
            let body = Bytes::from((round * 5 + n).to_string());
            client.post(&url, HeaderMap::new(), body, 5 * SECOND)
        });
        outcomes.extend(join_all(posts).await);
    }
    let mut copies = vec![0; outcomes.len()];
    while let Some(request) = receiver.already() {
        copies[String::from_utf8(request.body).unwrap().parse::<usize>().unwrap()] += 1;
    }
    for (number, (posted, copies)) in outcomes.iter().zip(copies).enumerate() {
        match (posted.status, posted.error) {
            (Some(200), None) => assert_eq!(copies, 1, "{number}"),
            (None, Some(PostError::Closed)) => assert!(copies <= 1, "{number}: {copies}"),
            other => panic!("{number}: {other:?}"),
        }
    }
    let reused = outcomes.iter().filter(|posted| posted.is_connection_reused).count();
    let closed = outcomes.iter().filter(|posted| posted.error.is_some()).count();
    assert!(reused > 100 && closed > 20, "{reused} on used connections, {closed} closed");
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
async fn of_a_long_head_the_beginning_is_kept() {
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "é".repeat(10_000));
    let receiver = Receiver::start(move |_| Reply::Raw(long.clone().into_bytes())).await;
    let posted = post(&receiver.url(), 5 * SECOND).await;
    assert_eq!(posted.status, Some(200), "{:?}", posted.error);
    let head = posted.head.unwrap();
    assert!(head.len() <= MAX_HEAD_BYTES && head.len() > MAX_HEAD_BYTES - 4);

    let head_of = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
    for (count, outcome) in [(100, (Some(200), None)), (101, (None, Some(PostError::Protocol)))] {
        let receiver = Receiver::start(move |_| Reply::Raw(head_of(count).into_bytes())).await;
        let posted = post(&receiver.url(), 5 * SECOND).await;
        assert_eq!((posted.status, posted.error), outcome, "{count} headers");
    }
}

#[tokio::test]
async fn a_reset_at_once_is_told_as_no_connection_or_as_a_closed_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let resetting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_zero_linger().unwrap();
        }
    });
    for _ in 0..20 {
        let posted = post(&url, SECOND).await;
        assert_eq!(posted.status, None);
        let error = posted.error.unwrap();
        assert!(matches!(error, PostError::Connect | PostError::Closed), "{error:?}");
    }
    resetting.abort();
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
        (format!("https://127.0.0.1:{port}/\r\nx-forged: yes"), PostError::InvalidUrl),
        (format!("https://127.0.0.1\r\nx-forged: yes\r\n:{port}/"), PostError::InvalidUrl),
    ] {
        let posted = strict.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
        assert_eq!((posted.status, posted.error), (None, Some(error)), "{url}");
    }
    assert!(receiver.already().is_none());
}

#[tokio::test]
async fn a_url_is_called_as_it_is_written_without_its_fragment() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let port = receiver.address.port();
    for (written, called) in [
        ("/hook?a=1&b=%20#fragment", "/hook?a=1&b=%20"),
        ("/%0d%0ax-forged:%20yes", "/%0d%0ax-forged:%20yes"),
        ("?x=/../y", "/?x=/../y"),
        ("/caf\u{e9}/a..b//c/", "/caf%C3%A9/a..b//c/"),
        ("/a'b(c)[d]|e^f~", "/a'b(c)[d]|e^f~"),
        ("", "/"),
    ] {
        let posted = post(&format!("http://127.0.0.1:{port}{written}"), SECOND).await;
        assert_eq!((posted.status, posted.error), (Some(200), None), "{written}");
        let request = receiver.next().await;
        assert_eq!(request.request_line, format!("POST {called} HTTP/1.1"));
        assert_eq!(request.headers["host"], format!("127.0.0.1:{port}"));
        assert!(request.headers.get("x-forged").is_none());
    }
}

#[tokio::test]
async fn a_name_that_is_not_ascii_is_looked_up_and_called_in_its_ascii_form() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let port = receiver.address.port();
    let answers = Answers::new([vec!["127.0.0.1"]]);
    let client = resolving(guard(), &answers);
    let url = format!("http://B\u{fc}cher.test.:{port}/");
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
    assert_eq!((posted.status, posted.error), (Some(200), None));
    assert_eq!(*answers.asked.lock().unwrap(), ["xn--bcher-kva.test."]);
    let host = &receiver.next().await.headers["host"];
    assert_eq!(host, &format!("xn--bcher-kva.test.:{port}"));
}

#[tokio::test]
async fn one_forbidden_address_condemns_the_name() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let forbidden = ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::127.0.0.1", "::1"];
    let mixed = forbidden.into_iter().flat_map(|other| {
        [vec!["127.0.0.1", other], vec![other, "127.0.0.1"], vec!["1.1.1.1", other]]
    });
    let answers = Answers::new(mixed);
    let client = resolving(guard(), &answers);
    let url = format!("https://receiver.test:{}/", receiver.address.port());
    for _ in 0..3 * forbidden.len() {
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
async fn a_second_connection_is_vetted_while_the_first_is_in_use() {
    let mut receiver = Receiver::start(|request| match request.number {
        0 => Reply::Hang,
        _ => ok(),
    })
    .await;
    let answers = Answers::new([vec!["127.0.0.1"], vec!["127.0.0.1"], vec!["10.0.0.1"]]);
    let client = resolving(guard(), &answers);
    let url = format!("http://receiver.test:{}/", receiver.address.port());
    let post = |deadline| client.post(&url, HeaderMap::new(), Bytes::new(), deadline);
    let others = async {
        receiver.next().await;
        let pooled = post(5 * SECOND).await;
        assert_eq!((pooled.status, pooled.error), (Some(200), None));
        // One of the two finds the pooled connection, which was vetted when it was made.
        let (one, other) = tokio::join!(post(5 * SECOND), post(5 * SECOND));
        let mut outcomes = [(one.status, one.error), (other.status, other.error)];
        outcomes.sort_unstable_by_key(|(status, _)| *status);
        assert_eq!(outcomes, [(None, Some(PostError::RefusedAddress)), (Some(200), None)]);
    };
    let (hanging, ()) = tokio::join!(post(2 * SECOND), others);
    assert_eq!(hanging.error, Some(PostError::Timeout));
    assert_eq!(answers.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_name_without_addresses_is_a_dns_error() {
    let client = resolving(guard(), &Answers::new([vec![]]));
    let posted = client.post("https://receiver.test/", HeaderMap::new(), Bytes::new(), SECOND);
    assert_eq!(posted.await.error, Some(PostError::Dns));
}

proptest! {
    /// What is accepted when an endpoint is made is what is connected to, and nothing else.
    #[test]
    fn a_literal_is_connected_to_exactly_when_its_url_is_accepted(
        (address, allow) in (addresses(), networks()),
        is_https: bool,
        allow_http: bool,
    ) {
        let guard = Guard { allow, allow_http };
        let scheme = if is_https { "https" } else { "http" };
        let url = format!("{scheme}://{}/", SocketAddr::new(address, 8443));
        let (resolver, tls) = (Answers::new([]), tls(vec![]));
        let connector = Connector { guard: Arc::new(guard.clone()), resolver, tls };
        let uri = Uri::try_from(&url).unwrap();
        let connected = connector.addresses(&uri).now_or_never().expect("no name is resolved");
        match (guard.check_url(&url), connected) {
            (Ok(_), Ok(addresses)) => prop_assert_eq!(addresses, vec![address]),
            (Err(one), Err(other)) => prop_assert_eq!(PostError::from(one), (&other).into()),
            (check, connected) => prop_assert!(false, "{url}: {check:?}, {connected:?}"),
        }
    }
}

/// Addresses of all kinds, special ones as often as ordinary ones.
fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        any::<u32>(),
        (0..1_u32 << 24).prop_map(|rest| (10 << 24) | rest),
        (0..1_u32 << 24).prop_map(|rest| (127 << 24) | rest),
        (0..1_u32 << 16).prop_map(|rest| (0xa9fe << 16) | rest),
    ];
    let prefix = prop_oneof![
        Just(0_u128),
        Just(0xffff_u128 << 32),
        Just(0xffff_u128 << 48),
        Just(0x0064_ff9b_u128 << 96),
        any::<u128>(),
    ];
    (v4, prefix, any::<bool>()).prop_map(|(bits, prefix, is_v4)| {
        if is_v4 {
            IpAddr::V4(bits.into())
        } else {
            IpAddr::V6((prefix & !u128::from(u32::MAX) | u128::from(bits)).into())
        }
    })
}

fn networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let network = prop::sample::select(vec![
        "10.0.0.0/8",
        "127.0.0.0/8",
        "0.0.0.0/0",
        "::1/128",
        "::/0",
        "64:ff9b::/96",
        "::ffff:0:0/96",
    ]);
    prop::collection::vec(network.prop_map(|network| network.parse().unwrap()), 0..3)
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
    let answers = Answers::new([vec!["1.1.1.1"], vec!["127.0.0.1", "1.1.1.1"]]);
    let client = resolving(guard(), &answers);
    for _ in 0..2 {
        let posted = client.post("http://receiver.test/", HeaderMap::new(), Bytes::new(), SECOND);
        assert_eq!(posted.await.error, Some(PostError::RefusedAddress));
    }
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
    let receiver = Receiver::start_with(Some(acceptor(RECEIVER)), |_| ok()).await;
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
async fn a_certificate_that_has_expired_is_refused() {
    let expired = include_bytes!("../testdata/expired.pem");
    let mut receiver = Receiver::start_with(Some(acceptor(expired)), |_| ok()).await;
    let client = resolving(guard(), &Answers::new([]));
    let url = format!("https://{}/", receiver.address);
    let posted = client.post(&url, HeaderMap::new(), Bytes::new(), SECOND).await;
    assert_eq!((posted.status, posted.error), (None, Some(PostError::Tls)));
    assert!(receiver.already().is_none());
}
