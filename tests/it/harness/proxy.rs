//! A network that can fail: a TCP proxy between the service and a server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
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

/// What happens to connections.
#[derive(Debug, Clone, Copy)]
struct State {
    way: Way,
    /// Connections of an earlier generation are abandoned.
    generation: usize,
}

/// A proxy in front of one server; open until told otherwise.
pub(crate) struct Proxy {
    /// The server's URL, through the proxy.
    pub(crate) url: String,
    state: watch::Sender<State>,
    trap: Arc<Trap>,
    _carrying: JoinSet<()>,
}

/// What happens to one commit.
#[derive(Debug, Clone, Copy)]
enum Catch {
    /// It is done, and its connection breaks before the answer.
    LoseAnswer,
    /// It waits until it is let go.
    Hold,
}

/// A piece of a statement's text or values, and what happens to the next commit of what has it: a
/// transaction, or the statement alone. Others commit at any time.
#[derive(Default)]
struct Trap {
    set: Mutex<Option<(&'static str, Catch)>>,
    sprung: AtomicUsize,
    let_go: Notify,
    /// Connections that are carried.
    carried: AtomicUsize,
}

/// What a connection is about.
#[derive(Default)]
struct Conversation {
    is_in_transaction: bool,
    /// The transaction has the piece that is waited for, or the statement that was just prepared.
    has_piece: bool,
}

/// A connection is carried as long as this lives.
struct Carried(Arc<Trap>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.carried.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Proxy {
    pub(crate) async fn to(server: &str) -> Self {
        let mut url = Url::parse(server).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let target: SocketAddr = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (state, states) = watch::channel(State { way: Way::Open, generation: 0 });
        let trap = Arc::<Trap>::default();
        let carried = Arc::clone(&trap);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, target, states.clone(), Arc::clone(&carried)));
            }
        });
        Self { url: url.into(), state, trap, _carrying: carrying }
    }

    /// Everything gets through again; what hung in a hole is closed.
    pub(crate) fn open(&self) {
        self.go(Way::Open);
    }

    pub(crate) fn cut(&self) {
        self.go(Way::Cut);
    }

    /// Everything is cut, and nothing that was under way gets through any more.
    pub(crate) async fn cut_off(&self) {
        self.cut();
        let is_cut = async || self.trap.carried.load(Ordering::SeqCst) == 0;
        super::until("all connections are cut", is_cut).await;
    }

    pub(crate) fn swallow(&self) {
        self.go(Way::Hole);
    }

    fn go(&self, way: Way) {
        self.state.send_modify(|state| state.way = way);
    }

    /// On the connections of the moment nothing is heard any more, from either side, not even that
    /// the other has closed its own; new ones are like any other.
    pub(crate) fn abandon(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// The next commit of what has this piece reaches the server, and is done there; its connection
    /// breaks before the answer. If it is a piece of a statement's text, its connection has not
    /// prepared that yet.
    pub(crate) fn lose_the_answer_to_the_commit_of(&self, piece: &'static str) {
        *self.trap.set.lock().unwrap() = Some((piece, Catch::LoseAnswer));
    }

    /// The next such commit does not reach the server until it is let go.
    pub(crate) fn hold_the_commit_of(&self, piece: &'static str) {
        *self.trap.set.lock().unwrap() = Some((piece, Catch::Hold));
    }

    pub(crate) fn let_go(&self) {
        self.trap.let_go.notify_one();
    }

    /// How many commits have been caught.
    pub(crate) fn caught(&self) -> usize {
        self.trap.sprung.load(Ordering::SeqCst)
    }
}

impl Trap {
    fn springs_on(&self, bytes: &[u8], about: &mut Conversation) -> Option<Catch> {
        let is_committed = contains(bytes, "COMMIT");
        if is_committed || contains(bytes, "ROLLBACK") || contains(bytes, "BEGIN") {
            about.is_in_transaction = contains(bytes, "BEGIN");
        }
        let mut set = self.set.lock().unwrap();
        let (piece, catch) = (*set)?;
        about.has_piece |= contains(bytes, piece);
        let is_prepared_only = bytes[0] == PARSE;
        let is_commit = is_committed || !(about.is_in_transaction || is_prepared_only);
        if !is_commit || !std::mem::take(&mut about.has_piece) {
            return None;
        }
        *set = None;
        self.sprung.fetch_add(1, Ordering::SeqCst);
        Some(catch)
    }
}

/// The message that has a statement's text; its values come after the answer, and are what runs it.
/// Source: PostgreSQL's "Message Formats".
const PARSE: u8 = b'P';

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Carries bytes both ways until either side ends or the way changes.
async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
    trap: Arc<Trap>,
) {
    trap.carried.fetch_add(1, Ordering::SeqCst);
    let _carried = Carried(Arc::clone(&trap));
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut about = Conversation::default();
    let born = state.borrow().generation;
    loop {
        let State { way, generation } = *state.borrow_and_update();
        if generation != born {
            return std::future::pending().await;
        }
        match way {
            Way::Open => {}
            Way::Cut => return,
            Way::Hole => return drop(state.changed().await),
        }
        tokio::select! {
            _ = state.changed() => {}
            read = client.read(&mut asked) => {
                let Ok(1..) = read else { return };
                let bytes = &asked[..read.unwrap()];
                let catch = trap.springs_on(bytes, &mut about);
                if let Some(Catch::Hold) = catch {
                    trap.let_go.notified().await;
                }
                if server.write_all(bytes).await.is_err() { return }
                if let Some(Catch::LoseAnswer) = catch {
                    // The answer is there: the request is done. Nobody will ever read it.
                    return drop(server.read(&mut answered).await);
                }
            }
            read = server.read(&mut answered) => {
                let Ok(1..) = read else { return };
                if client.write_all(&answered[..read.unwrap()]).await.is_err() { return }
            }
        }
    }
}
