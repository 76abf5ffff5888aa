//! A real Chromium under chromedriver, ended with the value.

use std::{
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, Locator, wd::WindowHandle};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::{left_out, on_path};
use crate::harness::{DEADLINE, until};

/// Debian's name first.
const CHROMIUM: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser of its own, with a new profile.
pub struct Browser {
    client: Client,
    session: String,
    // Ended after the client, which it serves.
    _driver: Driver,
}

/// One of its windows.
pub struct Window<'a> {
    browser: &'a Browser,
    handle: WindowHandle,
}

impl Browser {
    /// Starts it; `None` when this machine has none, which has been said then.
    pub async fn start() -> Option<Self> {
        let chromium = CHROMIUM.iter().find_map(|name| on_path(name));
        let (Some(chromedriver), Some(chromium)) = (on_path("chromedriver"), chromium) else {
            left_out("no chromedriver/chromium on PATH");
            return None;
        };
        let driver = Driver::start(&chromedriver);
        let profile = format!("--user-data-dir={}", driver.profile.display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let capabilities = json!({
            "goog:chromeOptions": {"args": flags, "binary": chromium},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is written as an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&driver.url()).await.expect("a browser");
        let id = client.session_id().await.expect("a session").expect("its id");
        let session = format!("{}/session/{id}", driver.url());
        Some(Self { client, session, _driver: driver })
    }

    /// The first window, showing `url`.
    pub async fn open(&self, url: &str) -> Window<'_> {
        let handle = self.client.window().await.expect("a window");
        let window = Window { browser: self, handle };
        window.go(url).await;
        window
    }

    /// One more window, showing `url`.
    pub async fn open_another(&self, url: &str) -> Window<'_> {
        let handle = self.client.new_window(false).await.expect("a new window").handle;
        let window = Window { browser: self, handle };
        window.go(url).await;
        window
    }

    /// What has come to the console since the last look: errors, violations of the policy, what scripts print.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({"type": "browser"})).await;
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].as_str().expect("a message").to_owned()).collect()
    }

    /// What chromedriver offers beside the standard.
    async fn post(&self, command: &str, body: &Value) -> Value {
        let request = reqwest::Client::new().post(format!("{}/{command}", self.session)).json(body);
        let mut answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{command}: {answer}");
        answer["value"].take()
    }
}

impl Window<'_> {
    /// Commands go to the window that was chosen last.
    async fn client(&self) -> &Client {
        self.browser.client.switch_to_window(self.handle.clone()).await.expect("the window is there");
        &self.browser.client
    }

    pub async fn go(&self, url: &str) {
        self.client().await.goto(url).await.expect("the page loads");
    }

    /// The value of `script`, a function's body.
    pub async fn run(&self, script: &str) -> Value {
        self.client().await.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The value of `expression`.
    pub async fn value(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression})")).await
    }

    /// Waits until `expression` is true.
    pub async fn until(&self, expression: &str) {
        until(expression, async || self.value(expression).await == json!(true)).await;
    }

    /// Clicks, as a hand with a mouse would: it scrolls there, and fails on what is hidden or covered.
    pub async fn click(&self, selector: &str) {
        self.run(&format!("document.querySelector({}).scrollIntoView({{block: 'center'}})", json!(selector))).await;
        let element = self.client().await.find(Locator::Css(selector)).await.expect(selector);
        element.click().await.unwrap_or_else(|error| panic!("{selector} takes no click: {error}"));
    }

    /// Types into what is there, key by key.
    pub async fn press(&self, selector: &str, keys: &str) {
        let element = self.client().await.find(Locator::Css(selector)).await.expect(selector);
        element.send_keys(keys).await.unwrap_or_else(|error| panic!("{selector} takes no keys: {error}"));
    }

    /// Types `text` in place of what is there.
    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.client().await.find(Locator::Css(selector)).await.expect(selector);
        element.clear().await.expect(selector);
        element.send_keys(text).await.unwrap_or_else(|error| panic!("{selector} takes no keys: {error}"));
    }

    pub async fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({}).textContent", json!(selector))).await;
        text.as_str().expect("text").to_owned()
    }

    /// Gives the page this size, in CSS pixels, as a phone would: whatever the window manager allows a window.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics).await;
    }

    /// Takes the network away from this window, or gives it back.
    pub async fn set_offline(&self, offline: bool) {
        self.devtools("Network.enable", &json!({})).await;
        let conditions = json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.devtools("Network.emulateNetworkConditions", &conditions).await;
    }

    async fn devtools(&self, command: &str, parameters: &Value) {
        self.client().await;
        self.browser.post("goog/cdp/execute", &json!({"cmd": command, "params": parameters})).await;
    }
}

/// The chromedriver process.
struct Driver {
    process: Child,
    port: u16,
    profile: PathBuf,
    /// Kept open: it must not die of something it would like to say.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    fn start(chromedriver: &Path) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("browser-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // It takes a free port of IPv4 and gives up when that is not free in IPv6, too.
        let (process, port, output) =
            (0..10).find_map(|_| Self::listen(chromedriver)).expect("chromedriver says its port");
        Self { process, port, profile, _output: output }
    }

    fn listen(chromedriver: &Path) -> Option<(Child, u16, Lines<BufReader<ChildStdout>>)> {
        let mut command = Command::new(chromedriver);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("chromedriver starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let Some(port) = port else {
            process.wait().expect("it has ended");
            return None;
        };
        Some((process, port, lines))
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Has it end its browser and itself.
    fn ask_to_end(&self) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        socket.read_to_end(&mut Vec::new()).map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let asked = self.ask_to_end();
        let deadline = Instant::now() + DEADLINE;
        while asked.is_ok() && Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // No more than tidying: it has ended, or else there is nothing left to ask.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
