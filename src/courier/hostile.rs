//! Receivers that do not behave, and what a webhook to each of them comes to. The tests of the
//! client and those of the whole service share this file.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A way not to behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hostility {
    pub(crate) name: &'static str,
    pub(crate) scheme: &'static str,
    /// It takes the request before it says anything.
    does_read: bool,
    says: &'static [u8],
    then: Then,
    /// The status and the error of an attempt.
    pub(crate) outcome: Outcome,
}

/// A status, and the word for what went wrong, as they stand in the record of an attempt.
pub(crate) type Outcome = (Option<u16>, Option<&'static str>);

/// What a receiver does when it has said its words.
#[derive(Debug, Clone, Copy)]
enum Then {
    Hang,
    Close,
    Reset,
    /// These bytes again and again, a byte now and then.
    Drip(&'static [u8]),
    /// These bytes again and again, as fast as they are taken.
    Flood(&'static [u8]),
    /// TLS, with a certificate of an authority of its own.
    Encrypt,
}

use Then::{Close, Drip, Encrypt, Flood, Hang, Reset};

const TIMEOUT: Outcome = (None, Some("timeout"));
const CLOSED: Outcome = (None, Some("closed"));
const PROTOCOL: Outcome = (None, Some("protocol"));
const TLS: Outcome = (None, Some("tls"));

/// 10 MB of nothing, packed by gzip.
pub(crate) const BOMB: &[u8] = include_bytes!("testdata/bomb.gz");

/// All of them.
pub(crate) const HOSTILITIES: &[Hostility] = &[
    // Before the request.
    unread("never reads", b"", Hang, TIMEOUT),
    unread("closes at once", b"", Close, CLOSED),
    // Before the head.
    read("never answers", b"", Hang, TIMEOUT),
    read("closes instead of an answer", b"", Close, CLOSED),
    read("resets instead of an answer", b"", Reset, CLOSED),
    read("continues for ever", b"", Flood(b"HTTP/1.1 100 Continue\r\n\r\n"), PROTOCOL),
    read("hints for ever", b"", Drip(b"HTTP/1.1 103 Early Hints\r\n\r\n"), TIMEOUT),
    // In the head.
    read("hangs in the status line", b"HTTP/1.1 20", Hang, TIMEOUT),
    read("hangs in a header", b"HTTP/1.1 200 OK\r\nx-half: ha", Hang, TIMEOUT),
    read("closes in a header", b"HTTP/1.1 200 OK\r\nx-half: ha", Close, CLOSED),
    read("resets in a header", b"HTTP/1.1 200 OK\r\nx-half: ha", Reset, CLOSED),
    read("drips headers", b"HTTP/1.1 200 OK\r\n", Drip(b"x-drop: drop\r\n"), TIMEOUT),
    read("sends headers for ever", b"HTTP/1.1 200 OK\r\n", Flood(b"x-more: more\r\n"), PROTOCOL),
    read("sends one header for ever", b"HTTP/1.1 200 OK\r\nx: ", Flood(&[b'x'; 4096]), PROTOCOL),
    // What is no HTTP/1.
    read("speaks another protocol", b"SSH-2.0-OpenSSH_9.2\r\n", Hang, PROTOCOL),
    read("answers as HTTP/0.9 did", b"<html>thanks</html>\r\n", Close, PROTOCOL),
    read("answers in HTTP/2", b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d", Close, PROTOCOL),
    read("answers with a number for a status", b"HTTP/1.1 two hundred\r\n\r\n", Hang, PROTOCOL),
    read("switches protocols", b"HTTP/1.1 101 X\r\nupgrade: h2c\r\n\r\n", Hang, (Some(101), None)),
    // Lengths that lie.
    read(
        "names two lengths",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        Hang,
        PROTOCOL,
    ),
    read(
        "names a negative length",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        Hang,
        PROTOCOL,
    ),
    read(
        "says less than it named",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        Close,
        (Some(200), Some("closed")),
    ),
    read(
        "says more than it named",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
        Hang,
        (Some(200), None),
    ),
    read(
        "sends a chunk of no length",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n",
        Hang,
        (Some(200), Some("protocol")),
    ),
    // In the body.
    read(
        "hangs in the body",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        Hang,
        (Some(200), Some("timeout")),
    ),
    read(
        "resets in the body",
        b"HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\nhalf",
        Reset,
        (Some(500), Some("closed")),
    ),
    read(
        "drips the body",
        b"HTTP/1.1 500 X\r\ncontent-length: 99999\r\n\r\n",
        Drip(b"."),
        (Some(500), Some("timeout")),
    ),
    read(
        "sends a huge body",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n",
        Flood(&[b'a'; 65536]),
        (Some(200), None),
    ),
    read(
        "sends chunks for ever",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        Flood(b"1\r\na\r\n"),
        (Some(200), None),
    ),
    read(
        "sends chunk extensions for ever",
        b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n1;",
        Flood(&[b'x'; 4096]),
        (Some(500), Some("protocol")),
    ),
    read(
        "sends a gzip bomb",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
        Flood(BOMB),
        (Some(200), None),
    ),
    // Elsewhere.
    read(
        "redirects inside",
        b"HTTP/1.1 307 X\r\nlocation: http://169.254.169.254/latest/meta-data/\r\n\
          connection: close\r\ncontent-length: 0\r\n\r\n",
        Close,
        (Some(307), None),
    ),
    read(
        "refreshes inside",
        b"HTTP/1.1 200 OK\r\nrefresh: 0; url=http://169.254.169.254/\r\n\
          connection: close\r\ncontent-length: 0\r\n\r\n",
        Close,
        (Some(200), None),
    ),
    // Instead of TLS.
    expected_to_encrypt("never shakes hands", b"", Hang, TIMEOUT),
    expected_to_encrypt("hangs up on the handshake", b"", Close, TLS),
    expected_to_encrypt("speaks no TLS", b"HTTP/1.1 400 X\r\n\r\n", Hang, TLS),
    expected_to_encrypt("has a certificate of its own making", b"", Encrypt, TLS),
];

const fn read(name: &'static str, says: &'static [u8], then: Then, outcome: Outcome) -> Hostility {
    Hostility { name, scheme: "http", does_read: true, says, then, outcome }
}

const fn unread(
    name: &'static str,
    says: &'static [u8],
    then: Then,
    outcome: Outcome,
) -> Hostility {
    Hostility { name, scheme: "http", does_read: false, says, then, outcome }
}

const fn expected_to_encrypt(
    name: &'static str,
    says: &'static [u8],
    then: Then,
    outcome: Outcome,
) -> Hostility {
    Hostility { name, scheme: "https", does_read: false, says, then, outcome }
}

/// A receiver that does not behave, on a free port, until it is dropped.
pub(crate) struct Hostile {
    pub(crate) hostility: Hostility,
    pub(crate) address: SocketAddr,
    /// Bytes written by those who flood.
    written: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl Hostile {
    pub(crate) async fn start(hostility: Hostility) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let written = Arc::<AtomicUsize>::default();
        let total = Arc::clone(&written);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let written = Arc::clone(&total);
                connections.spawn(async move { hostility.behave(stream, &written).await });
                // Those that have ended need not be remembered.
                while connections.try_join_next().is_some() {}
            }
        });
        Self { hostility, address, written, _accepting: accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/hook", self.hostility.scheme, self.address)
    }

    /// Bytes written by a receiver that floods.
    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }
}

impl Hostility {
    async fn behave(self, mut stream: TcpStream, written: &AtomicUsize) {
        if self.does_read && take_request(&mut stream).await.is_none() {
            return;
        }
        if stream.write_all(self.says).await.is_err() {
            return;
        }
        match self.then {
            Hang => std::future::pending().await,
            // Without this the kernel would send a reset for what was not read.
            Close => drop(stream.shutdown().await),
            Reset => stream.set_zero_linger().unwrap(),
            Drip(drops) => {
                for drop in drops.iter().cycle() {
                    // The slowness is what is hostile.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if stream.write_u8(*drop).await.is_err() {
                        return;
                    }
                }
            }
            Flood(bytes) => {
                let wave = bytes.repeat(65536_usize.div_ceil(bytes.len()));
                while stream.write_all(&wave).await.is_ok() {
                    written.fetch_add(wave.len(), Ordering::SeqCst);
                }
            }
            Encrypt => drop(acceptor(include_bytes!("testdata/receiver.pem")).accept(stream).await),
        }
    }
}

/// Takes one request whole; `None` when it is not all there.
async fn take_request(stream: &mut TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length?.parse().ok()?];
    stream.read_exact(&mut body).await.ok().map(drop)
}

/// Speaks TLS with one of the certificates in `testdata`, which were made for these tests: their
/// key protects nothing.
pub(crate) fn acceptor(certificate: &[u8]) -> TlsAcceptor {
    let certificates = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/receiver.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
