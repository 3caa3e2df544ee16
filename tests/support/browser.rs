//! A real browser without a window, driven by the WebDriver protocol. Where none is installed there is none.

use std::process::Command;

use serde_json::{Value, json};

use super::process::Running;
use super::{http, seconds, wait_until};

pub struct Browser {
    address: String,
    session: String,
    /// Ends with it.
    _driver: Running,
    _folder: tempfile::TempDir,
}

impl Browser {
    /// None where chromium or its driver is missing; tools/test installs them.
    pub fn start() -> Option<Browser> {
        for program in ["chromium", "chromedriver"] {
            if Command::new(program).arg("--version").output().is_err() {
                println!("skipped: there is no {program}");
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", folder.path());
        let mut driver = Running::spawn(command);
        let mut port = None;
        wait_until(seconds(60), "chromedriver listens", || {
            assert!(driver.is_running(), "chromedriver ended: {}", driver.printed());
            let log = driver.printed();
            let rest = log.split_once("started successfully on port ").map(|(_, rest)| rest.to_owned());
            port = rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().map(str::to_owned));
            port.as_ref().is_some_and(|port| !port.is_empty())
        });
        let address = format!("127.0.0.1:{}", port.unwrap());
        let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", profile,
            ]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = call(&address, "POST", "/session", &wanted);
        let session = made["sessionId"].as_str().expect("a session").to_owned();
        Some(Browser { address, session, _driver: driver, _folder: folder })
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        call(&self.address, method, &format!("/session/{}{path}", self.session), body)
    }

    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({"url": url}));
    }

    /// What a function's body gives.
    pub fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    pub fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
        self.run(&script).as_str().unwrap_or_default().to_owned()
    }

    /// Presses keys as a person would, wherever the focus is. Tab is `\u{e004}`, Enter `\u{e007}`, Shift `\u{e008}`.
    pub fn press(&self, keys: &str) {
        let actions: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})))
            .collect();
        self.ask(
            "POST",
            "/actions",
            &json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]}),
        );
    }

    /// The window's size in CSS pixels, and whether it is dark.
    pub fn look(&self, width: u32, dark: bool) {
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The whole page as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let taken = self.devtools("Page.captureScreenshot", &json!({"captureBeyondViewport": true}));
        from_base64(taken["data"].as_str().unwrap())
    }

    /// What the console has shown since the last call, from warnings on.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.ask("POST", "/se/log", &json!({"type": "browser"}));
        let lines = log.as_array().cloned().unwrap_or_default();
        let grave = lines.iter().filter(|line| matches!(line["level"].as_str(), Some("SEVERE" | "WARNING")));
        grave.map(|line| line["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.ask("DELETE", "", &json!({}));
    }
}

fn call(address: &str, method: &str, path: &str, body: &Value) -> Value {
    let body = if method == "DELETE" { Vec::new() } else { body.to_string().into_bytes() };
    let answer = http::ask_for_length(address, method, path, &body);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, "{}"));
    assert!(head.contains(" 200 ") || method == "DELETE", "{method} {path}: {answer}");
    serde_json::from_str::<Value>(body).map(|value| value["value"].clone()).unwrap_or_default()
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let groups = digits.chunks(4).flat_map(|group| {
        let bits =
            group.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - group.len()));
        let bytes = bits.to_be_bytes();
        bytes[1..group.len()].to_vec()
    });
    groups.collect()
}
