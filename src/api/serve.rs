//! Accepts connections until told to stop. A slow client cannot hold a connection for ever.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

/// Room for the headers of a request; more gets 431.
const HEADER_BYTES: usize = 64 * 1024;

/// How long clients may take.
#[derive(Clone, Copy)]
struct Limits {
    /// To send a request's headers, and to send nothing between two requests.
    header_timeout: Duration,
    /// For requests under way when the end is announced.
    grace: Duration,
}

const LIMITS: Limits =
    Limits { header_timeout: Duration::from_secs(30), grace: Duration::from_secs(10) };

/// Serves until `shutdown` is done, then lets the requests under way finish, for at most ten
/// seconds.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(LIMITS, listener, router, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let Limits { header_timeout, grace } = limits;
    let connections = GracefulShutdown::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    serve_connection(stream, router.clone(), header_timeout, &connections);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    // Out of file descriptors, most likely: let connections end first.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    if tokio::time::timeout(grace, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time and are dropped");
    }
}

fn serve_connection(
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    connections: &GracefulShutdown,
) {
    // Answers are written whole: nothing is gained by waiting for more. A socket that refuses
    // is broken, and says so when it is read.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Notify, oneshot};
    use tokio::task::JoinHandle;

    use super::*;

    const FOREVER: Duration = Duration::from_hours(1);

    /// Returns the address, the way to end it, and its end.
    async fn start(
        limits: Limits,
        router: Router,
    ) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        (address, stop, tokio::spawn(serve_within(limits, listener, router, shutdown)))
    }

    async fn read_to_end(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_its_headers_is_cut_off() {
        let limits = Limits { header_timeout: Duration::from_millis(50), grace: FOREVER };
        let (address, _stop, _end) = start(limits, Router::new()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a").await.unwrap();
        let answer = read_to_end(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        let silent = TcpStream::connect(address).await.unwrap();
        read_to_end(silent).await;
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_before_the_end() {
        let (entered, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, release) = (entered.clone(), released.clone());
        let slow = get(move || async move {
            enter.notify_one();
            released.notified().await;
            "done"
        });
        let limits = Limits { header_timeout: FOREVER, grace: FOREVER };
        let (address, stop, end) = start(limits, Router::new().route("/", slow)).await;
        let idle = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        entered.notified().await;
        stop.send(()).unwrap();
        assert_eq!(read_to_end(idle).await, "", "an idle connection is closed at once");
        release.notify_one();
        assert!(read_to_end(busy).await.ends_with("\r\n\r\ndone"));
        end.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_does_not_hold_up_the_end() {
        let hanging = get(std::future::pending::<()>);
        let limits = Limits { header_timeout: FOREVER, grace: Duration::from_millis(50) };
        let (address, stop, end) = start(limits, Router::new().route("/", hanging)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stop.send(()).unwrap();
        end.await.unwrap();
    }
}
