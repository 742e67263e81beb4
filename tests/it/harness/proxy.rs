//! A network that can fail: a TCP proxy between the service and a server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Bytes get through.
    Open,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Connections stay, new ones are accepted, and nothing gets through.
    Hole,
}

/// A proxy in front of one server; open until told otherwise.
pub(crate) struct Proxy {
    /// The server's URL, through the proxy.
    pub(crate) url: String,
    way: watch::Sender<Way>,
    trap: Arc<Trap>,
    _carrying: JoinSet<()>,
}

/// What to lose the answer to.
#[derive(Default)]
struct Trap {
    request: Mutex<Option<&'static str>>,
    sprung: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn to(server: &str) -> Self {
        let mut url = Url::parse(server).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let target: SocketAddr = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (way, ways) = watch::channel(Way::Open);
        let trap = Arc::<Trap>::default();
        let carried = Arc::clone(&trap);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, target, ways.clone(), Arc::clone(&carried)));
            }
        });
        Self { url: url.into(), way, trap, _carrying: carrying }
    }

    /// Everything gets through again; what hung in a hole is closed.
    pub(crate) fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub(crate) fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    pub(crate) fn swallow(&self) {
        self.way.send_replace(Way::Hole);
    }

    /// The next request with this text reaches the server, and is done there; its connection
    /// breaks before the answer.
    pub(crate) fn lose_the_answer_to(&self, request: &'static str) {
        *self.trap.request.lock().unwrap() = Some(request);
    }

    /// How many answers have been lost.
    pub(crate) fn lost_answers(&self) -> usize {
        self.trap.sprung.load(Ordering::SeqCst)
    }
}

impl Trap {
    fn springs_on(&self, bytes: &[u8]) -> bool {
        let mut request = self.request.lock().unwrap();
        let is_there = request.is_some_and(|request| {
            bytes.windows(request.len()).any(|window| window == request.as_bytes())
        });
        if is_there {
            *request = None;
        }
        is_there
    }
}

/// Carries bytes both ways until either side ends or the way changes.
async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    mut way: watch::Receiver<Way>,
    trap: Arc<Trap>,
) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let present = *way.borrow_and_update();
        match present {
            Way::Open => {}
            Way::Cut => return,
            Way::Hole => return drop(way.changed().await),
        }
        tokio::select! {
            _ = way.changed() => {}
            read = client.read(&mut asked) => {
                let Ok(1..) = read else { return };
                let bytes = &asked[..read.unwrap()];
                let is_sprung = trap.springs_on(bytes);
                if server.write_all(bytes).await.is_err() { return }
                if is_sprung {
                    // The answer is there: the request is done. Nobody will ever read it.
                    drop(server.read(&mut answered).await);
                    trap.sprung.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(1..) = read else { return };
                if client.write_all(&answered[..read.unwrap()]).await.is_err() { return }
            }
        }
    }
}
