//! Receivers that do as a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A request as it came in.
#[derive(Debug)]
pub(super) struct Received {
    /// Which one, from 0.
    pub(super) number: usize,
    pub(super) request_line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What a receiver does with a request.
pub(super) enum Reply {
    /// Says this status, with these header lines (each ends in CRLF) and this body.
    Say(u16, &'static str, String),
    /// Writes these bytes and closes.
    Raw(Vec<u8>),
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Never answers.
    Hang,
    /// Answers 200 once this is set.
    After(&'static AtomicBool),
}

pub(super) fn ok() -> Reply {
    Reply::Say(200, "", "ok".to_owned())
}

/// A server on a free port, until it is dropped.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
    _accepting: JoinSet<()>,
}

#[derive(Clone)]
struct Scripted {
    script: Arc<dyn Fn(&Received) -> Reply + Send + Sync>,
    count: Arc<AtomicUsize>,
    received: mpsc::UnboundedSender<Received>,
}

impl Receiver {
    pub(super) async fn start(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, script).await
    }

    /// With TLS, if an acceptor is given.
    pub(super) async fn start_with(
        tls: Option<tokio_rustls::TlsAcceptor>,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let scripted =
            Scripted { script: Arc::new(script), count: Arc::default(), received: sender };
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (scripted, tls) = (scripted.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                scripted.serve(stream).await;
                            }
                        }
                        None => scripted.serve(stream).await,
                    }
                });
            }
        });
        Self { address, received, _accepting: accepting }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook?key=1", self.address)
    }

    /// The next request; waits for it.
    pub(super) async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(Duration::from_secs(20), self.received.recv());
        next.await.expect("a request should have come").unwrap()
    }

    /// A request that has come already.
    pub(super) fn already(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }
}

impl Scripted {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some(request) = self.read(&mut stream).await {
            let reply = (self.script)(&request);
            // The test may have ended.
            drop(self.received.send(request));
            if !self.reply(&mut stream, reply).await {
                return;
            }
        }
    }

    async fn read(&self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let request_line = lines.next().unwrap().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            let name = HeaderName::try_from(name).unwrap();
            (name, HeaderValue::try_from(value).unwrap())
        };
        let headers: HeaderMap = lines.map(header).collect();
        let length = headers.get("content-length").map_or("0", |length| length.to_str().unwrap());
        let length = length.parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        Some(Received { number, request_line, headers, body })
    }

    /// Whether the connection can carry another request.
    async fn reply(&self, stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> bool {
        match reply {
            Reply::Say(status, headers, body) => {
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(text.as_bytes()).await.is_ok()
            }
            Reply::Raw(bytes) => {
                drop(stream.write_all(&bytes).await);
                drop(stream.shutdown().await);
                false
            }
            Reply::Write(bytes) => stream.write_all(&bytes).await.is_ok(),
            Reply::Hang => std::future::pending().await,
            Reply::After(is_let_go) => {
                while !is_let_go.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await.is_ok()
            }
        }
    }
}

/// An address where nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
