//! An S3 server on loopback that misbehaves as it is told.
//!
//! It keeps objects, checks conditions, and lists; each request may first meet a misdeed of the table for its method.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::http::{Request, answer, s3_environment};

/// What is done to one request.
#[derive(Clone, Debug)]
pub enum Misdeed {
    /// Not done, this answer.
    Refuse(u16, &'static str),
    /// Not done, and the connection cut.
    Cut,
    /// Done, but answered so.
    DoneBut(u16, &'static str),
    /// Done, and the connection cut before the answer.
    DoneThenCut,
    /// Done after a while.
    Late(Duration),
    /// The answer's body ends so early, with the connection.
    Shorten(usize),
    /// Refused with an answer that repeats all that was sent: the address, the signature, the id of the key.
    Echo(u16),
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    misdeeds: HashMap<String, VecDeque<Misdeed>>,
    requests: Vec<String>,
    ignores_conditions: bool,
}

pub struct Bucket {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl Bucket {
    pub fn start() -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, ended) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let bucket = Bucket { address, state: state.clone(), ended: ended.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let state = state.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        bucket
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        s3_environment(&self.address.to_string())
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What the next requests of this method meet, one each.
    pub fn misdeeds(&self, method: &str, misdeeds: impl IntoIterator<Item = Misdeed>) {
        self.state.lock().unwrap().misdeeds.entry(method.to_owned()).or_default().extend(misdeeds);
    }

    pub fn clear_misdeeds(&self, method: &str) {
        self.state.lock().unwrap().misdeeds.remove(method);
    }

    pub fn ignore_conditions(&self) {
        self.state.lock().unwrap().ignores_conditions = true;
    }

    /// Puts an object there by the back door; the key holds the prefix.
    pub fn place(&self, key: &str, body: &[u8]) {
        self.state.lock().unwrap().objects.insert(key.to_owned(), body.to_vec());
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().objects.get(key).cloned()
    }

    /// Whether there is an object with this in its key.
    pub fn has(&self, part: &str) -> bool {
        self.state.lock().unwrap().objects.keys().any(|key| key.contains(part))
    }

    pub fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.state.lock().unwrap().objects.len()
    }

    /// The requests of this method so far.
    pub fn requests(&self, method: &str) -> usize {
        self.state.lock().unwrap().requests.iter().filter(|request| *request == method).count()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = Request::read(&mut reader) {
        let misdeed = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.method.clone());
            state.misdeeds.get_mut(&request.method).and_then(VecDeque::pop_front)
        };
        let is_head = request.method == "HEAD";
        let perform = || state.lock().unwrap().perform(&request);
        let bytes = match misdeed {
            None => perform(),
            Some(Misdeed::Late(time)) => {
                std::thread::sleep(time);
                perform()
            }
            Some(Misdeed::Cut) => return,
            Some(Misdeed::DoneThenCut) => {
                perform();
                return;
            }
            Some(Misdeed::Refuse(status, code)) => error(status, code, "as told", is_head),
            Some(Misdeed::DoneBut(status, code)) => {
                perform();
                error(status, code, "as told", is_head)
            }
            Some(Misdeed::Shorten(count)) => {
                let mut bytes = perform();
                bytes.truncate(bytes.len().saturating_sub(count));
                let _ = stream.write_all(&bytes);
                return;
            }
            Some(Misdeed::Echo(status)) => error(status, "Echo", &request.head().replace('\n', " "), is_head),
        };
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn error(status: u16, code: &str, message: &str, is_head: bool) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let sent = if is_head { "" } else { &body };
    answer(status, &[], sent.as_bytes(), body.len())
}

impl State {
    fn perform(&mut self, request: &Request) -> Vec<u8> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let key = path.trim_start_matches('/').split_once('/').map_or("", |(_bucket, key)| key).to_owned();
        match request.method.as_str() {
            "PUT" => self.put(key, request),
            "GET" if key.is_empty() => self.list(query),
            "GET" | "HEAD" => self.get(&key, request),
            "DELETE" => {
                self.objects.remove(&key);
                answer(204, &[], b"", 0)
            }
            _ => error(501, "NotImplemented", "no such request", false),
        }
    }

    fn put(&mut self, key: String, request: &Request) -> Vec<u8> {
        let there = self.objects.get(&key);
        let none_wanted = request.header("if-none-match") == Some("*") && there.is_some();
        let other_wanted =
            request.header("if-match").is_some_and(|wanted| there.is_none_or(|body| etag(body) != wanted));
        if (none_wanted || other_wanted) && !self.ignores_conditions {
            return error(412, "PreconditionFailed", "a condition does not hold", false);
        }
        let tag = etag(&request.body);
        self.objects.insert(key, request.body.clone());
        answer(200, &[("ETag", tag)], b"", 0)
    }

    fn get(&self, key: &str, request: &Request) -> Vec<u8> {
        let is_head = request.method == "HEAD";
        let Some(body) = self.objects.get(key) else {
            return error(404, "NoSuchKey", "there is none", is_head);
        };
        let mut headers =
            vec![("ETag", etag(body)), ("Last-Modified", "Sun, 01 Jan 2023 00:00:00 GMT".to_owned())];
        if request.header("if-match").is_some_and(|wanted| wanted != etag(body)) {
            return error(412, "PreconditionFailed", "a condition does not hold", is_head);
        }
        let range = request.header("range").map(|text| {
            let (first, last) = text.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            (first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap())
        });
        let (status, part) = match range {
            None => (200, &body[..]),
            Some((first, _)) if first >= body.len() => {
                return error(416, "InvalidRange", "beyond the end", is_head);
            }
            Some((first, last)) => {
                let last = last.min(body.len() - 1);
                headers.push(("Content-Range", format!("bytes {first}-{last}/{}", body.len())));
                (206, &body[first..=last])
            }
        };
        answer(status, &headers, if is_head { b"" } else { part }, part.len())
    }

    fn list(&self, query: &str) -> Vec<u8> {
        let value = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            pair.unwrap_or("").replace("%2F", "/")
        };
        let (prefix, after) = (value("prefix"), value("start-after"));
        let keys = self.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let lines = keys.map(|(key, body)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2023-01-01T00:00:00.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                etag(body).replace('"', "&quot;"),
                body.len()
            )
        });
        // Backwards: nothing promises an order.
        let lines: String = lines.rev().collect();
        let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{lines}</ListBucketResult>");
        answer(200, &[], body.as_bytes(), body.len())
    }
}

fn etag(body: &[u8]) -> String {
    format!("\"{:x}-{}\"", crc32c::crc32c(body), body.len())
}
