//! A page in Chromium, without a window, that a test drives through the browser's debugging protocol.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{tool, wait_for};

/// The time after which a click is repeated that had no effect.
const CLICK_AGAIN: Duration = Duration::from_secs(5);

/// An open page. The browser ends with it.
pub struct Page {
    browser: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    count: u64,
    session: Option<String>,
    /// What the page logged, and what it asked for.
    events: Vec<Value>,
    _profile: TempDir,
}

impl Page {
    /// Opens `url`; returns `None` if there is no Chromium.
    pub fn open(url: &str) -> Option<Self> {
        let chromium = tool("chromium", "what people see")?;
        let profile = tempfile::tempdir().unwrap();
        // The protocol's pipes are file descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"]).arg(chromium);
        // Root may not use the browser's own sandbox, and containers have a small /dev/shm.
        command.args(["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]);
        command.args(["--remote-debugging-pipe", "--window-size=1200,1600", "--disable-component-update"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut browser =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().expect("a shell runs");
        let (requests, answers) = (browser.stdin.take().unwrap(), BufReader::new(browser.stdout.take().unwrap()));
        let mut page = Self { browser, requests, answers, count: 0, session: None, events: vec![], _profile: profile };
        let target = page.call("Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = page.call("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }));
        page.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page.call("Page.navigate", &json!({ "url": url }));
        Some(page)
    }

    /// Sends a command of the protocol; returns its result.
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.count += 1;
        let mut request = json!({ "id": self.count, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = session.clone().into();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).expect("the browser runs");
        loop {
            let mut bytes = Vec::new();
            self.answers.read_until(0, &mut bytes).unwrap();
            assert_eq!(bytes.pop(), Some(0), "the browser ended");
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            if answer["id"] == self.count {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// Returns the value of a JavaScript expression.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.call("Runtime.evaluate", &parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn await_that(&mut self, expression: &str) {
        let is_so = |page: &mut Self| page.evaluate(&format!("Boolean({expression})")) == true;
        // A page that is being loaded has not all of its elements.
        wait_for(expression, || is_so(self));
    }

    /// Clicks the first element that the selector names.
    pub fn click(&mut self, selector: &str) {
        self.await_that(&format!("document.querySelector({selector:?})"));
        self.evaluate(&format!("document.querySelector({selector:?}).click()"));
    }

    /// Clicks the first element that the selector names until an expression is true: a page that is still being drawn may draw
    /// the element anew, or not listen to it yet.
    pub fn click_until(&mut self, selector: &str, expression: &str) {
        wait_for(expression, || {
            self.evaluate(&format!("document.querySelector({selector:?})?.click()"));
            let begin = Instant::now();
            loop {
                if self.evaluate(&format!("Boolean({expression})")) == true {
                    return true;
                }
                if begin.elapsed() > CLICK_AGAIN {
                    return false;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
    }

    /// Saves a picture of the whole page, if the environment names a folder in `SCREENSHOTS`.
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS") else { return };
        let picture = self.call("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }));
        let mut decode = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let data = picture["data"].as_str().unwrap().to_owned();
        let mut input = decode.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(data.as_bytes()));
        let decoded = decode.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        fs::write(Path::new(&folder).join(name), decoded).unwrap();
    }

    /// Lists the addresses that the page has asked for so far.
    pub fn asked(&mut self) -> Vec<String> {
        self.evaluate("0");
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Lists the errors that the browser has logged so far, such as violations of the page's policy.
    pub fn errors(&mut self) -> Vec<String> {
        self.evaluate("0");
        let is_error = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            _ => false,
        };
        self.events.iter().filter(is_error).map(ToString::to_string).collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // The browser has processes of its own, all in its group.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.browser.id())]).status();
        let _ = self.browser.wait();
    }
}
