//! Makes a connection to a receiver: resolve, vet every address, connect, speak TLS.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::guard::{Guard, GuardError};

/// From the first question to the name server to the end of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// So much of an answer is read, whatever it consists of: interim answers and the like count
/// towards no limit of the HTTP library, and would keep us busy until the deadline. It has room
/// for the longest head, the body that is kept, and what is read ahead.
const MAX_ANSWER_BYTES: usize = 96 * 1024;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name, which may end in a dot.
    fn resolve(&self, name: String) -> BoxFuture<'_, io::Result<Vec<IpAddr>>>;
}

type Lookup = Shared<BoxFuture<'static, Result<Vec<IpAddr>, Arc<io::Error>>>>;

/// Asks the system. Lookups of one name are made once for all who wait for it: a name server that
/// does not answer holds one thread, however many deliveries there are.
#[derive(Default)]
pub struct SystemResolver {
    running: Arc<Mutex<HashMap<String, Lookup>>>,
}

impl SystemResolver {
    fn lookup(&self, name: String) -> Lookup {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = running.get(&name) {
            return lookup.clone();
        }
        let (all, asked) = (Arc::clone(&self.running), name.clone());
        // A task of its own, so that it ends and forgets itself when nobody waits any more.
        let task = tokio::spawn(async move {
            let found = tokio::net::lookup_host((asked.as_str(), 0)).await;
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&asked);
            found.map(|addresses| addresses.map(|address| address.ip()).collect())
        });
        let lookup = async move { task.await.map_err(io::Error::other)?.map_err(Arc::new) };
        running.entry(name).or_insert(lookup.boxed().shared()).clone()
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: String) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        let lookup = self.lookup(name);
        async move { lookup.await.map_err(|error| io::Error::new(error.kind(), error)) }.boxed()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the URL has no host")]
    NoHost,
    #[error("the name cannot be resolved")]
    Dns(#[source] io::Error),
    #[error("{0}")]
    Refused(#[source] GuardError),
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("no TLS")]
    Tls(#[source] io::Error),
    #[error("no connection in time")]
    Timeout,
}

/// Makes connections to vetted addresses only.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) guard: Arc<Guard>,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) tls: TlsConnector,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<TokioIo<Wire>, ConnectError> {
        let is_https = is_https(&uri);
        let host = host(&uri)?;
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let addresses = self.addresses(&uri).await?;
        let (stream, peer) = reach(&addresses, port).await?;
        let stream: Box<dyn Stream> =
            if is_https { Box::new(self.encrypt(host, stream).await?) } else { Box::new(stream) };
        let line = Arc::new(Line { peer, requests: AtomicU32::new(0) });
        Ok(TokioIo::new(Wire { stream, line, answered: 0 }))
    }

    /// The host's addresses. One forbidden address condemns the name: a name that leads inside
    /// now and then is not to be tried until it happens to lead outside.
    pub(super) async fn addresses(&self, uri: &Uri) -> Result<Vec<IpAddr>, ConnectError> {
        let host = host(uri)?;
        let addresses = match host.parse() {
            Ok(literal) => vec![literal],
            Err(_) => self.resolver.resolve(absolute(host)).await.map_err(ConnectError::Dns)?,
        };
        if addresses.is_empty() {
            return Err(ConnectError::Dns(io::Error::other("the name has no address")));
        }
        for address in &addresses {
            self.guard.check_address(*address, is_https(uri)).map_err(ConnectError::Refused)?;
        }
        Ok(addresses)
    }

    async fn encrypt(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<impl Stream + use<>, ConnectError> {
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
        self.tls.connect(name, stream).await.map_err(ConnectError::Tls)
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() != Some(&http::uri::Scheme::HTTP)
}

/// The host, an IPv6 address without its brackets.
fn host(uri: &Uri) -> Result<&str, ConnectError> {
    let host = uri.host().ok_or(ConnectError::NoHost)?;
    Ok(host.trim_start_matches('[').trim_end_matches(']'))
}

/// Names with a dot are whole: no search list of ours is tried behind them.
fn absolute(host: &str) -> String {
    if host.contains('.') && !host.ends_with('.') { format!("{host}.") } else { host.to_owned() }
}

/// Connects to the first address that answers; each is given its share of the time.
async fn reach(addresses: &[IpAddr], port: u16) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let end = Instant::now() + CONNECT_TIMEOUT;
    let mut failure = ConnectError::Timeout;
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = end.saturating_duration_since(Instant::now()) / left;
        let peer = SocketAddr::new(*address, port);
        match timeout(share, TcpStream::connect(peer)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(ConnectError::Connect)?;
                return Ok((stream, peer));
            }
            Ok(Err(error)) => failure = ConnectError::Connect(error),
            Err(_) => failure = ConnectError::Timeout,
        }
    }
    Err(failure)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        let end = Instant::now() + CONNECT_TIMEOUT;
        Box::pin(
            async move { timeout_at(end, connecting).await.unwrap_or(Err(ConnectError::Timeout)) },
        )
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: SocketAddr,
    /// Requests it has carried.
    pub(super) requests: AtomicU32,
}

/// A connection, with what is known of it.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    line: Arc<Line>,
    /// Bytes read since something was last written.
    answered: usize,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new().extra(Arc::clone(&self.line))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answered > MAX_ANSWER_BYTES {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the answer is too long");
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.answered += buffer.filled().len() - before;
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answered = 0;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
