//! Who is told of alarms: the log, a command, a webhook. The last two on a thread of their own, one after the other, with a limit in
//! time each, so that what hangs there is felt nowhere else.

use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::model::Fault;

use super::alarms::{Alarm, Level};
use super::ward::Change;

/// How long a command, or a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a webhook is tried.
const TRIES: u32 = 3;
/// So many may wait. Who is that far behind is not told of more.
const WAITING_MAX: usize = 100;
const GLANCE: Duration = Duration::from_millis(20);

/// What alarms are given to.
#[derive(Clone, Default)]
pub struct Hooks {
    /// A command for the shell: JSON on its standard input, the same in `PGSLUICE_ALARM_…`.
    pub command: Option<String>,
    /// Gets the JSON by POST.
    pub url: Option<String>,
    /// The pipeline's name, for who is told by several.
    pub name: String,
}

/// What is told.
#[derive(Clone, Serialize)]
struct Message {
    pipeline: String,
    state: &'static str,
    #[serde(flatten)]
    alarm: Alarm,
}

/// The end that alarms are put into.
pub struct Teller {
    name: String,
    sender: Option<SyncSender<Message>>,
}

impl Hooks {
    pub fn are_none(&self) -> bool {
        self.command.is_none() && self.url.is_none()
    }

    /// Ends with the teller, without waiting for what is under way.
    pub fn start(self) -> Result<Teller, Fault> {
        let name = self.name.clone();
        if self.are_none() {
            return Ok(Teller { name, sender: None });
        }
        let (sender, receiver) = sync_channel::<Message>(WAITING_MAX);
        let client = match &self.url {
            Some(_) => Some(client()?),
            None => None,
        };
        let unstarted =
            |error: std::io::Error| Fault::stop(format!("cannot start the alarms' thread: {error}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unstarted)?;
        let thread = std::thread::Builder::new().name("alarms".into());
        let run = move || {
            while let Ok(message) = receiver.recv() {
                if let Some(command) = &self.command
                    && let Err(why) = execute(command, &message)
                {
                    tracing::warn!(alarm = message.alarm.alarm, "--alarm-exec: {why}");
                }
                if let (Some(url), Some(client)) = (&self.url, &client)
                    && let Err(why) = runtime.block_on(post(client, url, &message))
                {
                    tracing::warn!(alarm = message.alarm.alarm, "--alarm-url: {why}");
                }
            }
        };
        thread.spawn(run).map_err(unstarted)?;
        Ok(Teller { name, sender: Some(sender) })
    }
}

impl Teller {
    pub fn tell(&self, change: &Change) {
        let (state, alarm) = match change {
            Change::Raised(alarm) | Change::Moved(alarm) => ("raised", alarm),
            Change::Over(alarm) => ("over", alarm),
        };
        let Alarm { alarm: kind, subject, level, message, cure, .. } = alarm;
        match (state, level) {
            ("over", _) => tracing::info!(alarm = kind, subject, "alarm is over: {message}"),
            (_, Level::Notice) => tracing::info!(alarm = kind, level = level.name(), cure, "{message}"),
            _ => tracing::warn!(alarm = kind, level = level.name(), cure, "{message}"),
        }
        let Some(sender) = &self.sender else { return };
        let message = Message { pipeline: self.name.clone(), state, alarm: alarm.clone() };
        if let Err(TrySendError::Full(_)) = sender.try_send(message) {
            tracing::warn!(alarm = kind, "not told to the command or webhook: it is too far behind");
        }
    }
}

/// Runs the command for one message. What it prints goes nowhere: it is not ours to log.
fn execute(command: &str, message: &Message) -> Result<(), String> {
    let Alarm { alarm, subject, level, message: text, cure, .. } = &message.alarm;
    let json = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    let mut shell = Command::new("/bin/sh");
    // What is in our environment is for us: connection strings, keys, URLs.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PGSLUICE_") || name == "PGPASSWORD" {
            shell.env_remove(name);
        }
    }
    let mut child = shell
        .args(["-c", command])
        .env("PGSLUICE_ALARM", alarm)
        .env("PGSLUICE_ALARM_STATE", message.state)
        .env("PGSLUICE_ALARM_LEVEL", level.name())
        .env("PGSLUICE_ALARM_SUBJECT", subject)
        .env("PGSLUICE_ALARM_MESSAGE", text)
        .env("PGSLUICE_ALARM_CURE", cure)
        .env("PGSLUICE_ALARM_PIPELINE", &message.pipeline)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Smaller than a pipe's buffer; a command that reads nothing is none of our business.
        let _ = std::io::Write::write_all(&mut stdin, &json);
    }
    let began = Instant::now();
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("has ended with {status}")),
            None if began.elapsed() < PATIENCE => std::thread::sleep(GLANCE),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("took more than {} s and was ended", PATIENCE.as_secs()));
            }
        }
    }
}

fn client() -> Result<reqwest::Client, Fault> {
    // It fails where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(PATIENCE).build();
    client.map_err(|error| Fault::stop(format!("--alarm-url: {}", error.without_url())))
}

async fn post(client: &reqwest::Client, url: &str, message: &Message) -> Result<(), String> {
    let json = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    let mut last = String::new();
    for attempt in 0..TRIES {
        tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
        let request = client.post(url).header("content-type", "application/json").body(json.clone());
        // The URL may hold a secret.
        last = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => format!("answered {}", answer.status()),
            Err(error) => error.without_url().to_string(),
        };
    }
    Err(format!("{last}, {TRIES} times"))
}
