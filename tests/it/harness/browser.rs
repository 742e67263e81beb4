//! Chromium, as a person has it open: driven through its driver, which takes JSON over HTTP.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::programs::program;

/// The sandbox does not work for root, nor in many containers.
const FLAGS: [&str; 4] =
    ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"];

/// A script that takes longer has failed.
const SCRIPT_MS: u64 = 20_000;

/// A browser with one window; gone when it is dropped.
pub(crate) struct Browser {
    http: Client<HttpConnector, Full<Bytes>>,
    session_url: String,
    _driver: Driver,
}

/// An answer that the browser got from the network.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) url: String,
    pub(crate) status: u64,
    /// Of which bytes it says that it is.
    pub(crate) content_range: Option<String>,
}

/// The process that starts the browser, and all that it started.
struct Driver {
    child: Child,
    port: String,
    /// Where the browser keeps what it remembers.
    _home: TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let driver = Driver::start();
        let http = Client::builder(TokioExecutor::new()).build_http();
        let sessions_url = format!("http://127.0.0.1:{}/session", driver.port);
        let mut browser = Self { http, session_url: sessions_url.clone(), _driver: driver };
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": FLAGS},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "timeouts": {"script": SCRIPT_MS},
        });
        let session = browser.post("", json!({"capabilities": {"alwaysMatch": wanted}})).await;
        browser.session_url = format!("{sessions_url}/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// Runs the body of an async function in the page; what it returns. An error fails the test.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let script = format!("return (async () => {{ {body} }})();");
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Clicks what the selector finds, as a person does.
    pub(crate) async fn click(&self, selector: &str) {
        let found = json!({"using": "css selector", "value": selector});
        let element = self.post("/element", found).await;
        // The key is a constant of the standard.
        let id = element["element-6066-11e4-a52e-4f735466cecf"].as_str().unwrap();
        self.post(&format!("/element/{id}/click"), json!({})).await;
    }

    /// Waits until the expression is true in the page.
    pub(crate) async fn until(&self, expression: &str) {
        let waiting = format!(
            "const end = Date.now() + 15000;
             while (!({expression})) {{
                 if (Date.now() > end) throw new Error({});
                 await new Promise((done) => setTimeout(done, 20));
             }}",
            json!(format!("waited in vain until {expression}")),
        );
        self.run(&waiting).await;
    }

    /// Presses keys, one after the other, as a person does.
    pub(crate) async fn press(&self, keys: &str) {
        let press = |key| {
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        };
        let steps: Vec<Value> = keys.chars().map(String::from).flat_map(press).collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": steps});
        self.post("/actions", json!({"actions": [keyboard]})).await;
    }

    /// The screen has this size, and its owner this wish for `light` or `dark`.
    pub(crate) async fn screen(&self, (width, height): (u32, u32), scheme: &str) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.command("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// What is on the screen, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let taken = self.command("Page.captureScreenshot", json!({"format": "png"})).await;
        STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()
    }

    /// What the browser complained about since the last time this was asked.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({"type": "browser"})).await;
        let messages = log.as_array().unwrap().iter().map(|entry| entry["message"].as_str());
        messages.map(|message| message.unwrap().to_owned()).collect()
    }

    async fn command(&self, name: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": name, "params": parameters})).await
    }

    /// All answers from the network since the last time this was asked.
    pub(crate) async fn seen(&self) -> Vec<Seen> {
        let log = self.post("/se/log", json!({"type": "performance"})).await;
        let seen = log.as_array().unwrap().iter().filter_map(|entry| {
            let entry: Value = serde_json::from_str(entry["message"].as_str()?).unwrap();
            let response = &entry["message"]["params"]["response"];
            (entry["message"]["method"] == json!("Network.responseReceived")).then(|| Seen {
                url: response["url"].as_str().unwrap().to_owned(),
                status: response["status"].as_u64().unwrap(),
                content_range: header(response, "content-range"),
            })
        });
        seen.collect()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = Request::post(format!("{}{path}", self.session_url));
        let request = request.body(Full::from(body.to_string())).unwrap();
        let response = self.http.request(request).await.unwrap();
        let status = response.status();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(status.is_success(), "{path}: {}", answer["value"]["message"]);
        answer["value"].take()
    }
}

impl Driver {
    fn start() -> Self {
        // The driver looks for the browser by itself, but does not say what installs it.
        drop(program("chromium"));
        let home = tempfile::tempdir().unwrap();
        let mut driver = program("chromedriver");
        driver.arg("--port=0").envs([("HOME", home.path()), ("TMPDIR", home.path())]);
        // A group of its own: the browser's processes end with it.
        let mut child = driver.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port: port.unwrap(), _home: home }
    }
}

/// Names of headers may be written in any case.
fn header(response: &Value, name: &str) -> Option<String> {
    let headers = response["headers"].as_object().unwrap();
    let (_, value) = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
    value.as_str().map(str::to_owned)
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        drop(Command::new("kill").args(["-KILL", "--", &group]).status());
        drop(self.child.wait());
    }
}
