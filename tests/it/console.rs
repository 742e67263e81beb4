//! The console in Chromium, as people use it: every page on every kind of screen, the recording that
//! plays, the keyboard, what is done there; and what others wrote, which must stay text.

use std::path::Path;
use std::process::Command;

use axum::Router;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::browser::Browser;
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::service::{Process, Site, subscription_at};
use crate::harness::{after, ended, fresh_id, sqlite, until};
use crate::player::{session_with_recording, silence};

const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

/// An installation with a console that is open in a browser.
struct Visit {
    site: Site,
    process: Process,
    browser: Browser,
}

impl Visit {
    async fn start() -> Self {
        let site = Site::embedded(sqlite().await).await;
        let process = site.start().await;
        let browser = Browser::start().await;
        Self { site, process, browser }
    }

    async fn sign_in(&self, key: &str) {
        self.browser.open(&self.process.url().unwrap()).await;
        self.browser.until("document.activeElement.id === 'key'").await;
        self.browser.press(key).await;
        self.browser.press(ENTER).await;
        self.settled("Overview").await;
    }

    /// The page of this title is there, whole.
    async fn settled(&self, title: &str) {
        let title = json!(format!("{title} – Finalizer"));
        let is_there =
            format!("document.title === {title} && !document.querySelector('main[aria-busy]')");
        self.browser.until(&is_there).await;
    }

    async fn go(&self, title: &str, path: &str) {
        self.browser.run(&format!("location.hash = {};", json!(path))).await;
        self.settled(title).await;
    }

    /// Presses the button of this name, which is there in a moment.
    async fn push(&self, name: &str) {
        let button = format!(
            "Array.from(document.querySelectorAll('dialog button, main button, header button'))
                .filter((one) => one.textContent === {} && !one.closest('[inert]'))",
            json!(name)
        );
        self.browser.until(&format!("{button}.length > 0")).await;
        // One in a dialog is above all others.
        self.browser
            .run(&format!("const all = {button}; (all.find((one) => one.closest('dialog')) ?? all[0]).click();"))
            .await;
    }

    async fn says(&self, text: &str) {
        let is_said = format!("document.body.innerText.includes({})", json!(text));
        self.browser.until(&is_said).await;
    }

    async fn stop(self) {
        self.process.stop().await;
    }
}

/// A call with a recording that was told to one who listens and one who fails; a failure.
struct Scene {
    pages: Vec<(&'static str, String)>,
    _receivers: [Receiver; 2],
}

impl Scene {
    async fn play(Visit { site, process, .. }: &Visit) -> Self {
        let receivers = [Receiver::start().await, Receiver::that(|_| Reply::Say(500)).await];
        let mut endpoints = Vec::new();
        for receiver in &receivers {
            endpoints.push(site.subscribe(receiver).await);
        }
        std::fs::write(site.recordings().join("call.wav"), silence()).unwrap();
        let caller = process.caller();
        let session = session_with_recording(&caller).await;
        let mut wrong = ended(fresh_id());
        wrong.as_object_mut().unwrap().remove("started_at");
        let (_, outcome) = caller.send_event(wrong.to_string().into()).await;
        let failure = outcome[0]["failure_id"].as_str().unwrap().to_owned();
        let session = session["session_id"].as_str().unwrap().to_owned();
        let mut delivery = String::new();
        until("both were tried", async || {
            let path = format!("/api/webhooks/deliveries/?session_id={session}");
            let (_, body) = caller.get(&path).await;
            let deliveries = body["data"]["deliveries"].as_array().unwrap();
            let tried = |owed: &&Value| owed["attempts"].as_i64().unwrap() > 0;
            let failed = |owed: &&Value| owed["endpoint_id"] == json!(endpoints[1]);
            if let Some(failing) = deliveries.iter().find(failed) {
                failing["id"].as_str().unwrap().clone_into(&mut delivery);
            }
            deliveries.len() == 4 && deliveries.iter().filter(tried).count() == 4
        })
        .await;
        let pages = vec![
            ("Overview", "/overview".to_owned()),
            ("Sessions", "/sessions".to_owned()),
            ("Session", format!("/sessions/{session}")),
            ("Endpoints", "/endpoints".to_owned()),
            ("Endpoint", format!("/endpoints/{}", endpoints[1])),
            ("Deliveries", "/deliveries".to_owned()),
            ("Delivery", format!("/deliveries/{delivery}")),
            ("Failures", "/failures".to_owned()),
            ("Failure", format!("/failures/{failure}")),
        ];
        Self { pages, _receivers: receivers }
    }

    fn path(&self, title: &str) -> &str {
        &self.pages.iter().find(|(other, _)| *other == title).unwrap().1
    }
}

/// What finds out what keeps people from using a page.
fn axe() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/axe");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(String::from_utf8(output.stdout).unwrap().trim()).unwrap()
}

const VIOLATIONS: &str = "
    const { violations } = await axe.run(document, { resultTypes: ['violations'] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((one) => one.html).join(' ')}`);
";

const WIDTHS: &str = "return [document.documentElement.scrollWidth, innerWidth];";

/// Nothing stands out at the side.
async fn assert_fits(browser: &Browser, page: &str) {
    let widths: [u32; 2] = serde_json::from_value(browser.run(WIDTHS).await).unwrap();
    assert!(widths[0] <= widths[1], "{page}: {widths:?}");
}

async fn look_at(visit: &Visit, axe: &str, (title, screen): (&str, &str)) {
    let browser = &visit.browser;
    browser.run(axe).await;
    let violations = browser.run(VIOLATIONS).await;
    assert_eq!(violations, json!([]), "{title}, {screen}");
    assert_fits(browser, title).await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::create_dir_all(&folder).unwrap();
    let name = format!("{}-{screen}.png", title.to_lowercase().replace(' ', "-"));
    std::fs::write(folder.join(name), browser.picture().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_can_be_used_by_everybody_on_every_screen() {
    let (visit, axe) = (Visit::start().await, axe());
    let scene = Scene::play(&visit).await;
    let screens = [
        ("light", (1280, 900), "light"),
        ("dark", (1280, 900), "dark"),
        ("phone", (390, 844), "light"),
    ];
    for (screen, size, scheme) in screens {
        visit.browser.screen(size, scheme).await;
        visit.browser.open(&visit.process.url().unwrap()).await;
        visit.settled("Sign in").await;
        look_at(&visit, &axe, ("Sign in", screen)).await;
        visit.sign_in(&visit.site.staff_key).await;
        for (title, path) in &scene.pages {
            visit.go(title, path).await;
            look_at(&visit, &axe, (*title, screen)).await;
        }
        visit.push("?").await;
        visit.says("Keyboard shortcuts").await;
        look_at(&visit, &axe, ("Help", screen)).await;
        visit.push("Close").await;
        visit.push("Sign out").await;
        visit.settled("Sign in").await;
    }
    let complaints = visit.browser.complaints().await;
    let policy: Vec<_> = complaints.iter().filter(|one| one.contains("Content Security")).collect();
    assert!(policy.is_empty(), "{policy:?}");
    visit.stop().await;
}

/// Where the player is and which turn is shown, until the second turn is.
const HEARD: &str = "
    const audio = document.querySelector('audio');
    const heard = [];
    await new Promise((done, fail) => {
        setTimeout(() => fail(new Error(JSON.stringify(heard))), 15000);
        const look = () => {
            const active = Array.from(document.querySelectorAll('.turn[aria-current]'), (turn) => turn.dataset.turn);
            heard.push([audio.currentTime, active]);
            if (active[0] === '1') done();
        };
        audio.addEventListener('timeupdate', look);
    });
    return { heard, paused: audio.paused };
";

#[tokio::test(flavor = "multi_thread")]
async fn the_turn_that_is_heard_is_shown_and_a_click_on_a_turn_goes_there() {
    let visit = Visit::start().await;
    let scene = Scene::play(&visit).await;
    let browser = &visit.browser;
    visit.sign_in(&visit.site.staff_key).await;
    visit.go("Session", scene.path("Session")).await;
    browser.until("document.querySelector('audio')?.readyState >= 1").await;

    // Two seconds into the call the recording begins; the third turn is at the 47th second of it.
    browser.click(".turn[data-turn='2']").await;
    browser.until("document.querySelector('audio').currentTime > 45.2").await;
    let active = "document.querySelector('.turn[aria-current]')?.dataset.turn";
    browser.until(&format!("{active} === '2'")).await;
    let at = browser.run("return document.querySelector('audio').currentTime;").await;
    assert!((45.0..60.0).contains(&at.as_f64().unwrap()), "{at}");

    browser.click(".turn[data-turn='0'] button").await;
    let heard = browser.run(HEARD).await;
    assert_eq!(heard["paused"], json!(false), "it plays on");
    let heard: Vec<(f64, Vec<String>)> = serde_json::from_value(heard["heard"].clone()).unwrap();
    let (last, before) = heard.split_last().unwrap();
    assert!((2.0..3.5).contains(&last.0), "the second turn is at the fourth second: {heard:?}");
    assert!(before.iter().any(|(_, active)| active == &["0"]), "{heard:?}");

    // A link that has ended: with another one it plays on from where it was.
    let end = "const audio = document.querySelector('audio');
        window.before = [audio.src, audio.currentTime];
        audio.dispatchEvent(new Event('error'));";
    browser.run(end).await;
    let plays_on = "!document.querySelector('audio').paused
        && document.querySelector('audio').src !== window.before[0]
        && document.querySelector('audio').currentTime > window.before[1]";
    browser.until(plays_on).await;

    browser.run("document.querySelector('h1').focus();").await;
    browser.press("p").await;
    browser.until("document.querySelector('audio').paused").await;
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_says_why_and_is_shown_as_soon_as_it_can() {
    let visit = Visit::start().await;
    let browser = &visit.browser;
    visit.sign_in(&visit.site.staff_key).await;
    visit.go("Not found", "/sessions/%E0%A4%A").await;
    visit.says("There is no such page.").await;

    let down = "window.answering = window.fetch;
        window.fetch = async () => new Response('{\"message\": \"It is down.\"}', {status: 503});";
    browser.run(down).await;
    visit.go("Sessions", "/sessions").await;
    visit.says("This cannot be shown").await;
    browser.press("r").await;
    browser.until("document.querySelector('#status').textContent === 'It is down.'").await;
    visit.push("Sign out").await;
    visit.says("You are still signed in. It is down.").await;
    browser.run("window.fetch = window.answering;").await;
    visit.says("There are no sessions here.").await;
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_begins_anew_when_somebody_else_signs_in_in_another() {
    let visit = Visit::start().await;
    let browser = &visit.browser;
    let made = visit.site.run(&["keys", "create", "--user", "8"]);
    let key = String::from_utf8(made.stdout).unwrap();
    visit.sign_in(&visit.site.staff_key).await;
    let sign_in = format!(
        "await fetch('/api/console/session/', {{method: 'POST', headers: {{'X-API-Key': {}}}}});",
        json!(key.trim())
    );
    browser.run(&sign_in).await;
    browser.run("new BroadcastChannel('session').postMessage('changed');").await;
    browser.until("document.querySelector('.who')?.textContent === 'User 8'").await;
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_is_shown_to_the_letter() {
    let visit = Visit::start().await;
    let caller = visit.process.caller();
    let mut call = ended(fresh_id());
    call["metadata"] = json!({"big": 9_007_199_254_740_993_u64, "whole": 1.0});
    let (_, taken) = caller.send_event(call.to_string().into()).await;
    let (_, marked) = caller.send_event("\u{FEFF}{}".into()).await;
    visit.sign_in(&visit.site.staff_key).await;
    let path = format!("/sessions/{}", taken[0]["session_id"].as_str().unwrap());
    visit.go("Session", &path).await;
    visit.says("\"big\": 9007199254740993").await;
    visit.says("\"whole\": 1.0").await;
    // Without its mark it would be another failure.
    let path = format!("/failures/{}", marked[0]["failure_id"].as_str().unwrap());
    visit.go("Failure", &path).await;
    visit.says("⟨U+FEFF⟩{}").await;
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_only_a_keyboard_signs_in_and_finds_their_way() {
    let visit = Visit::start().await;
    let scene = Scene::play(&visit).await;
    let browser = &visit.browser;
    browser.open(&visit.process.url().unwrap()).await;
    browser.until("document.activeElement.id === 'key'").await;
    browser.press("sk_wrong").await;
    browser.press(ENTER).await;
    visit.says("An API key is sk_ and 64 hexadecimal digits.").await;
    browser.run("document.activeElement.value = '';").await;
    browser.press(&format!("sk_{}", "9".repeat(64))).await;
    browser.press(ENTER).await;
    visit.says("The API key is not valid, or not active.").await;
    visit.sign_in(&visit.site.staff_key).await;
    browser.press("gs").await;
    visit.settled("Sessions").await;
    browser.press("j").await;
    browser.until("document.activeElement.closest('tbody tr') !== null").await;

    // What comes meanwhile is shown, and whoever is somewhere stays there.
    let place = browser.run("return document.activeElement.dataset.key;").await;
    let rows = browser.run("return document.querySelectorAll('tbody tr').length;").await;
    let mut later = ended(fresh_id());
    later["started_at"] = json!(after(60));
    visit.process.caller().send_event(later.to_string().into()).await;
    browser.until(&format!("document.querySelectorAll('tbody tr').length > {rows}")).await;
    assert_eq!(browser.run("return document.activeElement.dataset.key;").await, place);
    browser.press(ENTER).await;
    visit.settled("Session").await;
    assert_eq!(browser.run("return location.hash.slice(1);").await, json!(scene.path("Session")));
    browser.press("?").await;
    visit.says("Single keys do something").await;
    browser.press(ESCAPE).await;
    browser.until("!document.querySelector('dialog')").await;
    browser.press("t").await;
    browser.until("document.documentElement.dataset.theme === 'dark'").await;
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ordered_in_the_console_is_done() {
    let visit = Visit::start().await;
    let scene = Scene::play(&visit).await;
    let browser = &visit.browser;
    visit.sign_in(&visit.site.staff_key).await;
    visit.go("Endpoint", scene.path("Endpoint")).await;
    visit.push("Ping").await;
    visit.says("The ping did not arrive").await;
    visit.push("Close").await;
    visit.push("Rotate the secret").await;
    visit.push("Rotate").await;
    browser.until("document.querySelector('#secret')?.textContent.startsWith('whsec_')").await;
    visit.push("Done").await;
    visit.says("Old secrets end").await;
    visit.push("Disable").await;
    visit.push("Disable").await;
    visit.says("by hand").await;
    visit.push("Enable").await;
    visit.says("healthy").await;

    visit.go("Delivery", scene.path("Delivery")).await;
    visit.says("cancelled").await;
    visit.push("Redeliver").await;
    visit.says("Attempt 2").await;
    visit.says("so I say").await;

    visit.go("Failure", scene.path("Failure")).await;
    visit.says("\"character_owner\": 7").await;
    assert_eq!(
        browser.run("return document.querySelector('.line.here').dataset.pointer;").await,
        json!(""),
        "what is missing is missing in the whole"
    );
    visit.push("Dry run").await;
    visit.says("A replay would come to").await;
    visit.push("Replay").await;
    visit.says("It still cannot be finalized.").await;
    visit.push("Discard").await;
    visit.push("Discard").await;
    visit.says("discarded").await;
    until("it is discarded", async || visit.site.failures().await[0].closed.is_some()).await;
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_see_their_own_and_nothing_of_failures() {
    let visit = Visit::start().await;
    let scene = Scene::play(&visit).await;
    let browser = &visit.browser;
    let made = visit.site.run(&["keys", "create", "--user", "8"]);
    let key = String::from_utf8(made.stdout).unwrap();
    visit.sign_in(key.trim()).await;
    assert_eq!(
        browser.run("return document.querySelector('a[href=\"#/failures\"]');").await,
        Value::Null
    );
    visit.go("Sessions", "/sessions").await;
    visit.says("There are no sessions here.").await;
    visit.go("Session", scene.path("Session")).await;
    visit.says("There is no such session.").await;
    visit.go("Overview", "/failures").await;
    visit.stop().await;
}

/// What somebody may write who wants a page to do something.
const CORPUS: [&str; 22] = [
    "<script>window.broken = 1</script>",
    "<img src=x onerror=\"window.broken = 1\">",
    "\"><svg onload=window.broken=1><rect width=9999 height=9999></svg>",
    "' onmouseover='window.broken=1' autofocus onfocus='window.broken=1",
    "</span></li></ol></main><h1>Another page</h1>",
    "</title></textarea></pre></style></script><script>window.broken = 1</script>",
    "<iframe srcdoc=\"<script>parent.broken = 1</script>\"></iframe>",
    "<style>* { display: none !important }</style>",
    "<base href=\"https://evil.example/\"><link rel=stylesheet href=//evil.example/a.css>",
    "<form action=https://evil.example><input name=key><button>Sign in</button></form>",
    "<meta http-equiv=refresh content=\"0;url=https://evil.example\">",
    "javascript:window.broken=1",
    "[click](javascript:window.broken=1) ![](https://evil.example/a.png)",
    "${window.broken = 1} {{constructor.constructor('window.broken = 1')()}} <%= 1 %>",
    "&lt;script&gt;window.broken=1&lt;/script&gt; &#x3c;b&#x3e;",
    "\\u003cscript\\u003e \\x3cscript\\x3e",
    "\u{202E}from right to left\u{202C} and \u{2066}isolated",
    "two\nlines\r\nand \u{2028} and \u{2029} and \u{85}",
    "\u{FEFF}\u{200B}\u{200D}invisible\u{AD}",
    "مرحبا שלום 你好 👩‍👩‍👧‍👦",
    "Z\u{351}\u{36B}\u{343}\u{36A}\u{302}\u{346}\u{313}\u{301}\u{300}\u{308}\u{30A}\u{31A}\u{315}\u{321}\u{322}\u{327}\u{328}\u{335}\u{336}\u{337}\u{338}",
    "ThisIsOneWordThatDoesNotEndThisIsOneWordThatDoesNotEndThisIsOneWordThatDoesNotEndThisIsOneWordThatDoesNotEndThisIsOneWordThatDoesNotEnd",
];

/// A receiver that says all of it, in a header and in the body.
async fn hostile_receiver() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let say = async || {
        let headers = [("x-said", CORPUS[0]), ("x-also", CORPUS[1])];
        (StatusCode::BAD_GATEWAY, headers, CORPUS.join("\n"))
    };
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, Router::new().fallback(say)).await.unwrap() });
    (url, serving)
}

/// A call in which everything that can be a text is one of these.
fn hostile_call() -> Value {
    let mut call = ended(fresh_id());
    let turn = |(at, text): (usize, &&str)| {
        let role = if at % 2 == 0 { "user" } else { "assistant" };
        json!({"role": role, "text": text, "started_at": after(i64::try_from(at).unwrap())})
    };
    call["messages"] = CORPUS.iter().enumerate().map(turn).collect();
    for (field, text) in [
        ("tenant_id", 0),
        ("character_slug", 1),
        ("room_name", 2),
        ("origin_url", 11),
        ("close_reason", 6),
    ] {
        call[field] = json!(CORPUS[text]);
    }
    call["metadata"] = CORPUS.iter().map(|text| ((*text).to_owned(), json!(text))).collect();
    call["usage"][0]["provider"] = json!(CORPUS[4]);
    call["usage"][0]["model"] = json!(CORPUS[21]);
    call
}

/// Elements that no page of the console has, whatever it shows.
const FOREIGN: &str = "
    const known = 'main form.filters, main form.filters *, main figure.chart *';
    const alien = 'script, img, iframe, style, link, meta, base, object, embed, svg, form, textarea, video, h1 ~ h1, [onerror], [onload], [onfocus], [onmouseover], a[href^=javascript]';
    const found = Array.from(document.querySelectorAll('main ' + alien.replaceAll(', ', ', main ')));
    return found.filter((one) => !one.matches(known)).map((one) => one.outerHTML);
";

async fn assert_harmless(visit: &Visit, page: &str) {
    let browser = &visit.browser;
    assert_eq!(browser.run("return window.broken ?? null;").await, Value::Null, "{page}");
    assert_eq!(browser.run(FOREIGN).await, json!([]), "{page}");
    assert_fits(browser, page).await;
}

/// Bytes that become failures.
fn hostile_raws() -> Vec<Bytes> {
    let texts = CORPUS.iter().map(|text| Bytes::from_static(text.as_bytes()));
    let nested = json!({
        "type": CORPUS[0], "event_id": CORPUS[1], "session_id": CORPUS[5],
        CORPUS[2]: [{CORPUS[3]: {}}, []],
    });
    let binary = b"{\"type\": \"\xff\xfe\x00<script>window.broken=1</script>\"}";
    texts.chain([Bytes::from_static(binary), nested.to_string().into()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_shown_as_text_and_does_nothing() {
    let visit = Visit::start().await;
    let (browser, caller) = (&visit.browser, visit.process.caller());
    let (url, _serving) = hostile_receiver().await;
    let endpoint = subscription_at(&url);
    visit.site.test.store.add_endpoint(&endpoint).await.unwrap();
    let call = hostile_call();
    let (status, answers) = caller.send_event(call.to_string().into()).await;
    assert_eq!((status, &answers[0]["status"]), (StatusCode::OK, &json!("finalized")), "{answers}");
    let session: uuid::Uuid = answers[0]["session_id"].as_str().unwrap().parse().unwrap();
    let (_, stored) = caller.session(session).await;
    for raw in hostile_raws() {
        caller.send_event(raw).await;
    }
    let mut delivery = None;
    until("it was answered", async || {
        let owed = visit.site.test.store.deliveries_of(session).await.unwrap();
        delivery = owed.iter().find(|owed| owed.attempts > 0).map(|owed| owed.delivery_id);
        delivery.is_some()
    })
    .await;
    let mut pages: Vec<(&str, String)> = vec![
        ("Overview", "/overview".to_owned()),
        ("Sessions", "/sessions".to_owned()),
        ("Session", format!("/sessions/{session}")),
        ("Endpoints", "/endpoints".to_owned()),
        ("Endpoint", format!("/endpoints/{}", endpoint.endpoint_id)),
        ("Delivery", format!("/deliveries/{}", delivery.unwrap())),
        ("Failures", "/failures".to_owned()),
    ];
    let failures = visit.site.failures().await;
    assert!(failures.len() >= CORPUS.len(), "{}", failures.len());
    pages.extend(failures.iter().map(|one| ("Failure", format!("/failures/{}", one.failure_id))));

    visit.sign_in(&visit.site.staff_key).await;
    for (size, count) in [((1280, 900), pages.len()), ((390, 844), 8)] {
        browser.screen(size, "light").await;
        for (title, path) in &pages[..count] {
            // From elsewhere: the title alone does not tell one failure from the next.
            visit.go("Endpoints", "/endpoints").await;
            if *title != "Endpoints" {
                visit.go(title, path).await;
            }
            if *title == "Failure" {
                browser.until("document.querySelector('pre.code')").await;
            }
            assert_harmless(&visit, path).await;
        }
    }
    visit.go("Session", &format!("/sessions/{session}")).await;
    let shown = "return Array.from(document.querySelectorAll('.turn .foreign'), (turn) => turn.textContent);";
    let texts: Vec<&Value> =
        stored["transcript"].as_array().unwrap().iter().map(|turn| &turn["text"]).collect();
    assert_eq!(browser.run(shown).await, json!(texts), "to the letter");
    assert!(texts.len() >= CORPUS.len() - 1, "{texts:?}");
    visit.go("Delivery", &format!("/deliveries/{}", delivery.unwrap())).await;
    let said = browser.run("return document.querySelector('.attempt').textContent;").await;
    for text in [CORPUS[0], CORPUS[1], CORPUS[20]] {
        assert!(said.as_str().unwrap().contains(text), "{said}");
    }
    let seen = browser.seen().await;
    assert!(!seen.iter().any(|seen| seen.url.contains("evil.example")), "{seen:?}");
    visit.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_view_is_light_and_asks_no_other_host() {
    let visit = Visit::start().await;
    Scene::play(&visit).await;
    visit.sign_in(&visit.site.staff_key).await;
    let sizes = "return performance.getEntries().filter((one) => one.transferSize !== undefined)
        .map((one) => [one.name, one.transferSize]);";
    let loaded: Vec<(String, u64)> =
        serde_json::from_value(visit.browser.run(sizes).await).unwrap();
    let total: u64 = loaded.iter().map(|(_, bytes)| bytes).sum();
    assert!(loaded.len() > 8 && total > 50_000 && total < 150_000, "{total}: {loaded:?}");
    let url = visit.process.url().unwrap();
    assert!(loaded.iter().all(|(name, _)| name.starts_with(&url)), "{loaded:?}");
    visit.stop().await;
}
