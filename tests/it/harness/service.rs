//! The service as it is run: the program itself, in processes that can be told to stop or be
//! killed, and somebody who calls its API.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use finalizer::api::{NewApiKey, new_api_key};
use finalizer::metrics::CONTENT_TYPE;
use finalizer::secrets::Keyring;
use finalizer::store::{Endpoint, Failure, FailureFilter};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use uuid::Uuid;

use super::broker::Broker;
use super::programs::curl;
use super::receiver::{Receiver, SECRET};
use super::{TestStore, endpoint, fresh_id, noon, until};

const KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";

/// The key of every test's installation.
pub(crate) fn keyring() -> Keyring {
    Keyring::parse(KEY).unwrap()
}

/// An installation: a database, a broker if there is one, and any number of processes.
pub(crate) struct Site {
    pub(crate) test: TestStore,
    pub(crate) broker: Option<Broker>,
    pub(crate) staff_key: String,
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Site {
    pub(crate) async fn embedded(test: TestStore) -> Self {
        let name = "test".to_owned();
        let (key_id, created_at) = (fresh_id(), noon());
        let new = NewApiKey { key_id, name, user: 1, is_staff: true, created_at };
        let (staff_key, key) = new_api_key([1; 32], new);
        test.store.add_api_key(&key).await.unwrap();
        let settings = vec![
            ("FINALIZER_DATABASE_URL", test.url.clone()),
            ("FINALIZER_SECRET_KEY", KEY.to_owned()),
            ("FINALIZER_LISTEN", "127.0.0.1:0".to_owned()),
            ("FINALIZER_ALLOW_PRIVATE", "127.0.0.0/8".to_owned()),
            // Many tests' calls were long ago.
            ("FINALIZER_DELIVERY_RETENTION", "100y".to_owned()),
        ];
        let folder = tempfile::tempdir().unwrap();
        Self { test, broker: None, staff_key, folder, settings }
    }

    pub(crate) async fn with_broker(test: TestStore) -> Self {
        let broker = Broker::new().await;
        let mut site = Self::embedded(test).await.with("FINALIZER_AMQP_URL", &broker.url);
        site.broker = Some(broker);
        site
    }

    /// A setting of all processes that are started from now on.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value.to_owned()));
        self
    }

    pub(crate) fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of recordings that a process makes when it starts.
    pub(crate) fn recordings(&self) -> PathBuf {
        self.folder().join("finalizer-data/recordings")
    }

    /// An endpoint at the receiver that hears of everything.
    pub(crate) async fn subscribe(&self, receiver: &Receiver) -> Uuid {
        let subscribed = subscription(receiver);
        self.test.store.add_endpoint(&subscribed).await.unwrap();
        subscribed.endpoint_id
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_finalizer"));
        command.args(arguments).current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts a process and waits until its API is up.
    pub(crate) async fn start(&self) -> Process {
        let mut child = self.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line.unwrap())));
        let process = Process { child, log, key: self.staff_key.clone() };
        until("the API is up", async || process.url().is_some()).await;
        process
    }

    /// Failures, newest first.
    pub(crate) async fn failures(&self) -> Vec<Failure> {
        let all = FailureFilter { limit: 1000, ..FailureFilter::default() };
        self.test.store.failures(&all).await.unwrap()
    }

    /// How many sessions of these are finalized.
    pub(crate) async fn finalized(&self, sessions: &[Uuid]) -> usize {
        let mut count = 0;
        for session_id in sessions {
            let session = self.test.store.session(*session_id).await.unwrap();
            count += usize::from(session.is_some_and(|session| session.finalized_at.is_some()));
        }
        count
    }
}

/// An endpoint at the receiver that hears of everything.
pub(crate) fn subscription(receiver: &Receiver) -> Endpoint {
    subscription_at(&receiver.url)
}

/// An endpoint at the URL that hears of everything.
pub(crate) fn subscription_at(url: &str) -> Endpoint {
    let sealed_secret = keyring().seal(SECRET.as_bytes());
    Endpoint { url: url.to_owned(), sealed_secret, ..endpoint() }
}

/// A running `finalizer run`; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    key: String,
}

impl Process {
    /// Where its API is, or its probes if it has none, once it has said so.
    pub(crate) fn url(&self) -> Option<String> {
        self.log.lock().unwrap().iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let url = [&line["api.url"], &line["probes.url"]].into_iter().find_map(Value::as_str);
            url.map(str::to_owned)
        })
    }

    /// Somebody who calls its API as staff.
    pub(crate) fn caller(&self) -> Caller {
        Caller::new(&self.url().unwrap(), &self.key)
    }

    /// What it has counted.
    pub(crate) fn metrics(&self) -> Scraped {
        let answer = curl(&format!("{}/metrics", self.url().unwrap()), &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, CONTENT_TYPE));
        Scraped(answer.text())
    }

    pub(crate) async fn is_listening(&self) -> bool {
        let url = self.url().unwrap();
        TcpStream::connect(url.strip_prefix("http://").unwrap()).await.is_ok()
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The most memory that it has held so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let told = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(told.success());
    }

    /// Ends it at once, without another word.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Asks it to stop and waits until it has, without complaint.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let last = log.len().saturating_sub(4000);
            let tail = log.get(last..).unwrap_or(&log);
            std::io::Write::write_all(&mut std::io::stderr(), tail.as_bytes()).unwrap();
        }
    }
}

/// What a process has counted.
#[derive(Debug)]
pub(crate) struct Scraped(pub(crate) String);

impl Scraped {
    /// The value of a metric, with its labels as they are written; nothing if it is not there.
    pub(crate) fn value(&self, metric: &str) -> Option<f64> {
        let of = |line: &str| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(of)
    }
}

/// Somebody with a key to the API.
#[derive(Clone)]
pub(crate) struct Caller {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    key: String,
}

impl Caller {
    fn new(url: &str, key: &str) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { http, url: url.to_owned(), key: key.to_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = Request::get(format!("{}{path}", self.url)).header("x-api-key", &self.key);
        self.send(request.body(Full::default()).unwrap()).await
    }

    pub(crate) async fn session(&self, session_id: Uuid) -> (StatusCode, Value) {
        let (status, mut body) = self.get(&format!("/api/billing/sessions/{session_id}/")).await;
        (status, body["data"].take())
    }

    /// Sends one event.
    pub(crate) async fn send_event(&self, event: Bytes) -> (StatusCode, Value) {
        self.post("application/json", event).await
    }

    /// Sends one event that belongs to a trace.
    pub(crate) async fn send_traced(&self, event: Bytes, traceparent: &str) -> StatusCode {
        let request = Request::post(format!("{}/api/events/", self.url))
            .header("x-api-key", &self.key)
            .header(header::CONTENT_TYPE, "application/json")
            .header("traceparent", traceparent);
        self.send(request.body(Full::from(event)).unwrap()).await.0
    }

    /// Sends events as NDJSON.
    pub(crate) async fn send_lines(&self, lines: &[Bytes]) -> (StatusCode, Value) {
        self.post("application/x-ndjson", lines.join(&b'\n').into()).await
    }

    /// Orders a replay of many failures.
    pub(crate) async fn order_replay(&self, order: &Value) -> (StatusCode, Value) {
        let request = Request::post(format!("{}/api/failures/replays/", self.url))
            .header("x-api-key", &self.key)
            .body(Full::from(order.to_string()));
        let (status, mut body) = self.send(request.unwrap()).await;
        (status, body["data"].take())
    }

    async fn post(&self, content_type: &str, body: Bytes) -> (StatusCode, Value) {
        let request = Request::post(format!("{}/api/events/", self.url))
            .header("x-api-key", &self.key)
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::from(body));
        let (status, mut body) = self.send(request.unwrap()).await;
        (status, body["data"].take())
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
        let response = self.http.request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}
