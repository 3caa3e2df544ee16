//! A source that is made up: a walsender on a unix socket with one slot, which sends the history and cuts the line where its dice say so.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use pgsluice::model::Position;
use pgsluice::pgoutput::Message;

use super::history::{encoded, now};
use super::life::Life;
use super::random::Random;

/// Names the socket, not a port.
pub(super) const PORT: u16 = 5432;

/// Serves until it is dropped.
pub(super) async fn serve(folder: &Path, life: Arc<Life>, mut random: Random) {
    let path = folder.join(format!(".s.PGSQL.{PORT}"));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                let (incoming, outgoing) = stream.into_split();
                connections.spawn(Connection::new(outgoing, Arc::clone(&life), random.fork()).answer(incoming));
            }
            Some(ended) = connections.join_next() => if let Err(ended) = ended && ended.is_panic() { std::panic::resume_unwind(ended.into_panic()) },
        }
    }
}

/// What one status says, after another one, and what had been sent to whom it comes from.
pub(super) struct Said {
    pub(super) last: Position,
    pub(super) written: Position,
    pub(super) flushed: Position,
    pub(super) sent: Position,
}

struct Connection {
    outgoing: OwnedWriteHalf,
    life: Arc<Life>,
    random: Random,
    buffer: Vec<u8>,
    /// Bytes after which the line is cut; none where it holds.
    cut_after: Option<u64>,
}

impl Connection {
    fn new(outgoing: OwnedWriteHalf, life: Arc<Life>, mut random: Random) -> Connection {
        let cut_after = random.one_in(3).then(|| random.below(30_000));
        let cut_after = cut_after.filter(|_| !life.is_last());
        Connection { outgoing, life, random, buffer: Vec::new(), cut_after }
    }

    /// Until either side has enough of it.
    async fn answer(mut self, mut incoming: OwnedReadHalf) {
        let Some(length) = read_u32(&mut incoming).await else { return };
        let mut startup = vec![0; length as usize - 4];
        if incoming.read_exact(&mut startup).await.is_err() {
            return;
        }
        self.put(b'R', &0u32.to_be_bytes());
        for (name, value) in
            [("server_version", "15.20"), ("server_encoding", "UTF8"), ("client_encoding", "UTF8")]
        {
            self.put(b'S', format!("{name}\0{value}\0").as_bytes());
        }
        self.put(b'Z', b"I");
        while self.flush().await {
            let Some((tag, body)) = message(&mut incoming).await else { return };
            if tag != b'Q' {
                return;
            }
            let text = String::from_utf8(body).unwrap();
            let slot = self.life.slot();
            if text.starts_with("IDENTIFY_SYSTEM") {
                self.row(&["7000000000000000001", "1", &slot.wal_end.to_string(), "app"]);
            } else if text.starts_with("SELECT plugin") {
                self.row(&["pgoutput", "app", &slot.confirmed.to_string(), "reserved", "f"]);
            } else if let Some((_, rest)) = text.split_once(" LOGICAL ") {
                let from: Position = rest.split([' ', '\0']).next().unwrap().parse().unwrap();
                // It silently begins where the slot is.
                return self.stream(incoming, from.max(slot.confirmed)).await;
            }
            self.put(b'C', b"OK\0");
            self.put(b'Z', b"I");
        }
    }

    async fn stream(mut self, incoming: OwnedReadHalf, from: Position) {
        self.put(b'W', &[0, 0, 0]);
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(from.0));
        let listening = tokio::spawn(listen(incoming, Arc::clone(&self.life), Arc::clone(&sent)));
        let history = Arc::clone(self.life.history());
        let mut known = HashSet::new();
        for transaction in &history.transactions {
            while !self.life.is_committed(transaction.end) {
                // Nothing new: the source says how far its WAL is.
                self.keepalive(&sent);
                let pause = Duration::from_millis(self.random.below(8));
                if !flush(&mut self.outgoing, &mut self.buffer, &mut self.cut_after).await
                    || listening.is_finished()
                {
                    return listening.abort();
                }
                tokio::time::sleep(pause).await;
                self.life.commit_more(&mut self.random);
            }
            if let Some((place, message)) = &transaction.before
                && *place > from
            {
                self.data(place.0, message);
            }
            if transaction.end <= from {
                continue;
            }
            for relation in &transaction.relations {
                let definition = encoded(&Message::Relation(relation.clone()));
                if known.insert(definition.clone()) {
                    self.data(0, &definition);
                }
            }
            for message in &transaction.messages {
                self.data(transaction.end.0, message);
                if self.random.one_in(50) && !self.flush().await {
                    return listening.abort();
                }
            }
            sent.store(transaction.end.0, std::sync::atomic::Ordering::SeqCst);
            if self.random.one_in(3) && !self.flush().await {
                return listening.abort();
            }
        }
        loop {
            self.life.commit_more(&mut self.random);
            self.keepalive(&sent);
            if !self.flush().await || listening.is_finished() {
                return listening.abort();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn data(&mut self, place: u64, message: &[u8]) {
        let mut body = vec![b'w'];
        body.extend(place.to_be_bytes());
        body.extend(place.to_be_bytes());
        body.extend((now() - 946_684_800_000_000).to_be_bytes());
        body.extend(message);
        self.put(b'd', &body);
    }

    /// Everything before the place that it names has been sent.
    fn keepalive(&mut self, sent: &std::sync::atomic::AtomicU64) {
        let end =
            self.life.idle_until(Position(sent.load(std::sync::atomic::Ordering::SeqCst)), &mut self.random);
        sent.fetch_max(end.0, std::sync::atomic::Ordering::SeqCst);
        let mut body = vec![b'k'];
        body.extend(end.0.to_be_bytes());
        body.extend((now() - 946_684_800_000_000).to_be_bytes());
        body.push(u8::from(self.random.one_in(4)));
        self.put(b'd', &body);
    }

    fn row(&mut self, fields: &[&str]) {
        let mut body = (fields.len() as u16).to_be_bytes().to_vec();
        for field in fields {
            body.extend((field.len() as u32).to_be_bytes());
            body.extend(field.as_bytes());
        }
        self.put(b'D', &body);
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        self.buffer.push(tag);
        self.buffer.extend((body.len() as u32 + 4).to_be_bytes());
        self.buffer.extend(body);
    }

    async fn flush(&mut self) -> bool {
        flush(&mut self.outgoing, &mut self.buffer, &mut self.cut_after).await && !self.life.is_over()
    }
}

/// Sends what waits, up to where the line is cut; whether it holds.
async fn flush(outgoing: &mut OwnedWriteHalf, buffer: &mut Vec<u8>, cut_after: &mut Option<u64>) -> bool {
    let mut waiting = std::mem::take(buffer);
    let is_cut = cut_after.is_some_and(|left| left < waiting.len() as u64);
    if let Some(left) = cut_after {
        waiting.truncate(*left as usize);
        *left -= waiting.len() as u64;
    }
    outgoing.write_all(&waiting).await.is_ok() && !is_cut
}

/// Takes statuses; ends when the other side takes its leave.
async fn listen(mut incoming: OwnedReadHalf, life: Arc<Life>, sent: Arc<std::sync::atomic::AtomicU64>) {
    let mut last = Position::ZERO;
    while let Some((tag, body)) = message(&mut incoming).await {
        if tag != b'd' || body.first() != Some(&b'r') {
            return;
        }
        let position = |at: usize| Position(u64::from_be_bytes(body[at..at + 8].try_into().unwrap()));
        let (written, flushed) = (position(1), position(9));
        let sent = Position(sent.load(std::sync::atomic::Ordering::SeqCst));
        life.confirmed(&Said { last, written, flushed, sent });
        last = flushed;
    }
}

async fn message(incoming: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
    let tag = incoming.read_u8().await.ok()?;
    let length = read_u32(incoming).await?;
    let mut body = vec![0; length as usize - 4];
    incoming.read_exact(&mut body).await.ok()?;
    Some((tag, body))
}

async fn read_u32(incoming: &mut OwnedReadHalf) -> Option<u32> {
    incoming.read_u32().await.ok()
}
