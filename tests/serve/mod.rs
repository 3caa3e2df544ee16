//! What a running process shows over HTTP, and whom it tells.

mod alarms;
mod metrics;
mod page;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Road, Running, http, seconds, wait_until};

const TOKEN: &str = "0123456789abcdef-token";

/// A process that serves, and where.
struct Served {
    running: Running,
    address: String,
}

impl Served {
    /// A command with a port of its own.
    #[track_caller]
    fn start(road: &Road, arguments: &[&str]) -> Served {
        let arguments = [arguments, &["--listen", "127.0.0.1:0"]].concat();
        let mut running = road.program.start(&arguments);
        let mut address = None;
        wait_until(seconds(30), "it listens", || {
            assert!(running.is_running(), "ended by itself: {}", running.log());
            let log = running.log();
            address = log
                .split_once("status page: http://")
                .and_then(|(_, rest)| Some(rest.split_once('/')?.0.to_owned()));
            address.is_some()
        });
        Served { running, address: address.unwrap() }
    }

    fn ask(&self, path: &str) -> (u16, Value) {
        answer(&http::ask(&self.address, "GET", path, b""))
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let (code, value) = self.ask(path);
        assert_eq!(code, 200, "{path}: {value}");
        value
    }

    /// The status, once everything was looked at.
    #[track_caller]
    fn seen(&self) -> Value {
        let mut status = Value::Null;
        wait_until(seconds(30), "everything was looked at", || {
            status = self.get("/status");
            ["source", "archive", "applier"].iter().all(|part| status[part].is_object())
        });
        status
    }

    fn put(&self, token: Option<&str>, body: &str) -> (u16, Value) {
        let authorization =
            token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let request = format!(
            "PUT /sentinel HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
        );
        answer(&raw(&self.address, request.as_bytes()))
    }
}

/// What of a value is not as a schema of docs/openapi.json says, with where it is.
fn misfits(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return misfits(document, document.pointer(name.trim_start_matches('#')).unwrap(), value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let is_number = kind == "integer" && types.contains(&"number");
    if !is_number && !types.contains(&kind) {
        return vec![format!("{at} is {kind}, not {types:?}")];
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        return vec![format!("{at} is {value}")];
    }
    match value {
        Value::Array(items) => items
            .iter()
            .flat_map(|item| misfits(document, &schema["items"], item, &format!("{at}[]")))
            .collect(),
        Value::Object(fields) if schema["properties"].is_object() => {
            let required = schema["required"].as_array().unwrap().iter().filter_map(Value::as_str);
            let missing = required
                .filter(|name| !fields.contains_key(*name))
                .map(|name| format!("{at}.{name} is missing"));
            let each = fields.iter().flat_map(|(name, field)| match &schema["properties"][name] {
                Value::Null => vec![format!("{at}.{name} is not described")],
                schema => misfits(document, schema, field, &format!("{at}.{name}")),
            });
            missing.chain(each).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn answers_are_as_the_document_describes_them() {
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let road = Road::new("create table t(id int primary key)");
    let served = Served::start(&road, &["follow"]);
    road.change("insert into t values (1)");
    road.wait_for("select count(*) from t");
    let forgotten = road.source.session();
    forgotten.query("begin; insert into t values (2)");
    wait_until(seconds(30), "a table is there", || !served.seen()["tables"].as_array().unwrap().is_empty());
    for path in ["/status", "/tables", "/tables/{name}", "/history", "/sentinel", "/healthz", "/readyz"] {
        let schema =
            &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path} is not described");
        let answer = served.get(&path.replace("{name}", "public.t"));
        assert_eq!(misfits(&document, schema, &answer, path), [] as [String; 0]);
    }
    let schema = &document["paths"]["/tables/{name}"]["get"]["responses"]["404"]["content"]["application/json"]
        ["schema"];
    assert_eq!(misfits(&document, schema, &served.ask("/tables/public.x").1, "404"), [] as [String; 0]);
    forgotten.query("rollback");
    road.finish(served.running);
}

fn raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Code and body.
fn answer(text: &str) -> (u16, Value) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
}

#[test]
fn what_is_served_is_what_status_says() {
    let road = Road::pgbench();
    let served = Served::start(&road, &["follow"]);
    road.source.pgbench(&["-n", "-c", "2", "-t", "300"]);
    road.change("create table odd(id int primary key); alter table odd rename to \"o d ä\"");
    road.wait_for("select count(*) from pgbench_history");
    let facts = |status: &Value| {
        let archive = &status["archive"];
        let applier = &status["applier"];
        json!([
            status["mode"],
            status["source"]["slot"],
            archive["first_lsn"],
            archive["last_lsn"],
            archive["segments"],
            archive["levels"],
            archive["transactions"],
            archive["changes"],
            archive["bytes"],
            applier["replay_lsn"],
            applier["transactions"],
            applier["changes"],
            applier["lag_bytes"],
            status["tables"],
            status["alarms"],
        ])
    };
    // At rest, that is once a look has come since the last change.
    let (mut shown, mut said) = (Value::Null, Value::Null);
    let started = Instant::now();
    while started.elapsed() < seconds(30) {
        said = facts(&road.program.status());
        shown = facts(&served.seen());
        if shown == said {
            break;
        }
    }
    assert_eq!(shown, said);
    assert_eq!(served.get("/tables"), road.program.status()["tables"]);
    let table = served.get("/tables/public.pgbench_history");
    assert_eq!((&table["received_events"], &table["applied_events"]), (&json!(600), &json!(600)));
    assert_eq!(served.ask("/tables/public.nothing").0, 404);
    assert_eq!(served.ask("/nothing").0, 404);
    wait_until(seconds(20), "the sentinel is shown as it is", || {
        served.get("/sentinel") == road.program.sentinel()
    });
    assert_eq!(served.get("/healthz"), json!({"alive": true}));
    assert_eq!(served.get("/readyz"), json!({"ready": true}));
    let mut history = Value::Null;
    wait_until(seconds(10), "there is some history", || {
        history = served.get("/history");
        !history["at"].as_array().unwrap().is_empty()
    });
    let lengths = ["at", "received_bytes_per_second", "lag_bytes", "lag_seconds"]
        .map(|name| history[name].as_array().unwrap().len());
    assert!(lengths[0] > 0 && lengths.iter().all(|length| *length == lengths[0]), "{history}");
    let misled =
        raw(&served.address, b"GET /status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(answer(&misled).0, 421);
    // Nothing of a connection string, nor of a row.
    let whole = served.get("/status").to_string();
    assert!(!whole.contains("user=") && !whole.contains("filler"), "{whole}");
    served.running.terminate(seconds(30)).done();
}

#[test]
fn it_is_ready_only_when_the_target_has_caught_up() {
    let road = Road::new("create table t(id int primary key, v int)");
    let served = Served::start(&road, &["follow", "--ready-lag", "2"]);
    wait_until(seconds(30), "ready", || served.ask("/readyz").0 == 200);
    let blocker = road.target.session();
    blocker.query("begin; lock table t in access exclusive mode");
    road.change("insert into t values (1, 1)");
    let mut said = (0, Value::Null);
    wait_until(seconds(30), "not ready", || {
        said = served.ask("/readyz");
        said.0 == 503
    });
    assert!(said.1["reason"].as_str().unwrap().contains("behind"), "{}", said.1);
    assert_eq!(served.ask("/healthz").0, 200);
    blocker.query("commit");
    wait_until(seconds(30), "ready again", || served.ask("/readyz").0 == 200);
    road.finish(served.running);
}

#[test]
fn only_who_has_the_token_changes_anything() {
    let road = Road::new("create table t(id int primary key)");
    let reading = Served::start(&road, &["follow"]);
    assert_eq!(reading.put(Some(TOKEN), r#"{"apply": false}"#).0, 403);
    reading.running.terminate(seconds(30)).done();
    let file = road.program.folder().join("token");
    std::fs::write(&file, "short").unwrap();
    let arguments = ["follow", "--token-file", file.to_str().unwrap()];
    let refused = road.program.run(&[&arguments[..], &["--listen", "0"]].concat()).ends_with(2);
    assert!(refused.stderr.contains("fewer than 16"), "{refused}");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let served = Served::start(&road, &arguments);
    for wrong in [None, Some(""), Some("0123456789abcdef-tokem"), Some("0123456789abcdef-token0")] {
        assert_eq!(served.put(wrong, r#"{"apply": false}"#).0, 401, "{wrong:?}");
    }
    for (body, code) in [
        ("", 400),
        ("{", 400),
        (r#"{"apply": "no"}"#, 400),
        (r#"{"aply": false}"#, 400),
        (r#"{"endpos": "here"}"#, 400),
        (&format!("{{\"endpos\": \"{}\"}}", "0".repeat(5000)), 413),
    ] {
        assert_eq!(served.put(Some(TOKEN), body).0, code, "{body:.40}");
    }
    assert_eq!(road.program.sentinel()["apply"], true);
    assert_eq!(served.ask("/status").0, 200);
    let (code, sentinel) = served.put(Some(TOKEN), r#"{"apply": false}"#);
    assert_eq!((code, &sentinel["apply"]), (200, &json!(false)));
    wait_until(seconds(20), "only received", || served.get("/status")["mode"] == "prefetch");
    road.change("insert into t values (1)");
    road.source.rests();
    let (code, _) = served.put(Some(TOKEN), r#"{"apply": true, "endpos": "current"}"#);
    assert_eq!(code, 200);
    served.running.wait(seconds(60)).done();
    assert_eq!(road.target.value("select count(*) from t"), "1");
}

#[test]
fn an_address_that_is_taken_is_refused_before_anything_begins() {
    let road = Road::new("create table t(id int primary key)");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = road.program.run(&["follow", "--listen", &address]).ends_with(1);
    assert!(outcome.stderr.contains("can't listen on"), "{outcome}");
    road.program.run(&["follow", "--listen", "nowhere"]).ends_with(2);
}

#[test]
fn hung_and_quick_clients_come_in_nobodys_way() {
    let road = Road::pgbench();
    let served = Served::start(&road, &["follow"]);
    served.seen();
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "600", "-R", "200"]);
    // Half a request each, and never more.
    let hung: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&served.address).unwrap();
            stream.write_all(b"GET /status HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    std::thread::scope(|scope| {
        let quick: Vec<_> = (0..10)
            .map(|client| {
                let served = &served;
                scope.spawn(move || {
                    let paths = ["/status", "/metrics", "/", "/history", "/readyz"];
                    (0..100).filter(|n| served.ask(paths[(client + n) % paths.len()]).0 != 0).count()
                })
            })
            .collect();
        let answered: usize = quick.into_iter().map(|client| client.join().unwrap()).sum();
        assert_eq!(answered, 1000);
    });
    // Who sends nothing is not kept.
    wait_until(seconds(30), "the hung ones are gone", || {
        hung.iter().all(|mut stream| {
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_millis(10)));
            matches!(std::io::Read::read(&mut stream, &mut [0; 512]), Ok(0))
        })
    });
    drop(load);
    road.finish(served.running);
}

#[test]
fn a_target_trails_on_purpose_and_a_mistake_can_be_stopped() {
    let road = Road::new("create table t(id int primary key, v text)");
    let served = Served::start(&road, &["follow", "--apply-delay", "6s"]);
    let count = || road.target.value("select count(*) from t");
    let began = Instant::now();
    road.change("insert into t values (1, 'meant')");
    road.source.rests();
    let before = road.source.current_lsn();
    let mut shown = Value::Null;
    wait_until(seconds(20), "it is in the log", || {
        shown = served.seen();
        shown["archive"]["transactions"] == 1
    });
    assert_eq!(count(), "0");
    wait_until(seconds(30), "it is applied", || count() == "1");
    assert!(began.elapsed() >= seconds(6), "applied after {:?}", began.elapsed());
    assert_eq!(shown["process"]["apply_delay_seconds"], 6.0);
    road.change("delete from t");
    road.program.run(&["sentinel", "set", "endpos", &before]).done();
    served.running.wait(seconds(60)).done();
    // The mistake is in the log, and not on the target.
    assert_eq!(count(), "1");
    road.program.run(&["sentinel", "set", "endpos", "0/0"]).done();
    // Without the delay it comes at once.
    road.arrives();
    assert_eq!(count(), "0");
}

#[test]
fn a_trailing_target_is_stopped_and_killed_as_any_other() {
    let road = Road::pgbench();
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "600", "-R", "100"]);
    for _ in 0..3 {
        let follow = road.program.start(&["follow", "--apply-delay", "2s"]);
        std::thread::sleep(seconds(4));
        follow.kill();
    }
    let follow = road.program.start(&["follow", "--apply-delay", "2s"]);
    std::thread::sleep(seconds(3));
    follow.terminate(seconds(30)).done();
    let behind = "select extract(epoch from now() - max(mtime)) from pgbench_history";
    let seconds_behind: f64 = road.target.value(behind).parse().unwrap();
    assert!(seconds_behind >= 2.0, "{seconds_behind}");
    drop(load);
    road.arrives();
}
