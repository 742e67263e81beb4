//! A receiver that costs next to nothing: reads every request, answers 204. It prints its URL.
#![expect(clippy::print_stdout, reason = "it tells the script that started it")]

use axum::Router;
use axum::http::StatusCode;
use bytes::Bytes;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/", listener.local_addr()?);
    // The body must be read, else the connection could not carry the next request.
    let router = Router::new().fallback(|_body: Bytes| async { StatusCode::NO_CONTENT });
    axum::serve(listener, router).await?;
    Ok(())
}
