//! The two directions of a replication stream: events come in, statuses go out, each in a task of its own
//! (PostgreSQL documentation, 55.4).

use super::clock::now;
use super::frames::{Frame, Incoming, Outgoing};
use super::server_message::ServerMessage;
use crate::model::{Fault, Lsn, Position, Timestamp};

/// What an error about a slot, or of the stream, leaves to be done.
pub(super) fn slot_fault(message: ServerMessage) -> Fault {
    let lost = matches!(message.sqlstate.as_str(), "55000" | "42704");
    let fault = message.into_fault();
    match fault.sqlstate.as_deref() {
        Some("55006") => fault.hint("another receiver uses the slot; it is free when that one has ended"),
        _ if lost => {
            let hint = "the slot can't give what follows what is in the archive: look at pg_replication_slots on the \
                        source (wal_status, plugin, database); a new slot leaves a gap";
            let Fault { message, sqlstate, .. } = fault;
            let fault = Fault::person(message).hint(hint);
            match sqlstate {
                Some(code) => fault.sqlstate(code),
                None => fault,
            }
        }
        _ => fault,
    }
}

pub(super) fn out_of_place(tag: u8) -> Fault {
    Fault::retry(format!("message '{}' is out of place in a replication stream", tag.escape_ascii()))
}

/// What the stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// One message of the output plugin, as it came. Some carry no address (0/0).
    Data { wal_start: Lsn, send_time: Timestamp, message: &'a [u8] },
    /// All commits before `wal_end` have been sent.
    Keepalive { wal_end: Position, send_time: Timestamp, reply_requested: bool },
    /// The server has something to say that is no error.
    Notice { sqlstate: String, message: String },
}

/// The reading direction of a stream.
pub struct ReplicationReceiver {
    pub(super) incoming: Incoming,
    pub(super) slot: String,
}

impl ReplicationReceiver {
    /// The next event out of what has been read already, without a system call.
    pub fn try_next(&mut self) -> Result<Option<Event<'_>>, Fault> {
        self.skip_reports()?;
        let slot = &self.slot;
        self.incoming.try_next()?.map(|frame| event(frame, slot)).transpose()
    }

    /// Reads more from the connection and says how many bytes. Cancel-safe.
    pub async fn fill(&mut self) -> Result<usize, Fault> {
        self.incoming.fill().await
    }

    /// The next event, waiting for it. Cancel-safe.
    pub async fn next(&mut self) -> Result<Event<'_>, Fault> {
        self.skip_reports()?;
        while !self.incoming.has_next()? {
            self.fill().await?;
            self.skip_reports()?;
        }
        self.try_next()?.ok_or_else(|| Fault::retry("the replication stream ended"))
    }

    /// Changed settings of the server (ParameterStatus): nobody waits for them.
    fn skip_reports(&mut self) -> Result<(), Fault> {
        while self.incoming.next_tag() == Some(b'S') && self.incoming.has_next()? {
            self.incoming.try_next()?;
        }
        Ok(())
    }
}

fn event<'a>(frame: Frame<'a>, slot: &str) -> Result<Event<'a>, Fault> {
    match frame.tag {
        b'd' => {
            copy_data(frame.body).ok_or_else(|| Fault::retry("the server sent a broken replication message"))
        }
        b'E' => {
            Err(slot_fault(ServerMessage::parse(frame.body))
                .context(format!("replication from slot \"{slot}\"")))
        }
        b'N' => notice(ServerMessage::parse(frame.body)),
        // CopyDone and CommandComplete: a server that shuts down says good-bye so.
        b'c' | b'C' => Err(Fault::retry("the source ended the replication stream")),
        tag => Err(out_of_place(tag)),
    }
}

/// A publication that can't be read makes PostgreSQL 18 skip its changes with a mere warning: they would be lost.
fn notice(notice: ServerMessage) -> Result<Event<'static>, Fault> {
    if notice.severity == "WARNING" && notice.sqlstate == "55000" {
        return Err(Fault::person(format!("the source leaves out changes: {}", notice.message))
            .sqlstate(notice.sqlstate)
            .hint("the publication must exist before the slot is created: create it, then a new slot"));
    }
    Ok(Event::Notice { sqlstate: notice.sqlstate, message: notice.message })
}

fn copy_data(body: &[u8]) -> Option<Event<'_>> {
    let (kind, rest) = body.split_first()?;
    let mut rest = rest;
    let mut number = || {
        let (bytes, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(u64::from_be_bytes(*bytes))
    };
    match kind {
        b'w' => {
            let (wal_start, _wal_end, send_time) = (number()?, number()?, number()?);
            Some(Event::Data {
                wal_start: Lsn(wal_start),
                send_time: Timestamp(send_time.cast_signed()),
                message: rest,
            })
        }
        b'k' => {
            let (wal_end, send_time) = (number()?, number()?);
            Some(Event::Keepalive {
                wal_end: Position(wal_end),
                send_time: Timestamp(send_time.cast_signed()),
                reply_requested: *rest.first()? != 0,
            })
        }
        _ => None,
    }
}

/// What is reported to the source. It believes it unseen: what is called flushed is gone from the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub written: Position,
    pub flushed: Position,
    pub applied: Position,
    /// Asks the server for a keepalive at once, to see whether it is still there.
    pub reply_requested: bool,
}

/// The writing direction of a stream. It waits for nothing but the socket.
pub struct StatusSender {
    pub(super) outgoing: Outgoing,
}

impl StatusSender {
    /// Sends a status. Cancel-safe: a half-sent one is completed before the next.
    pub async fn send(&mut self, status: Status) -> Result<(), Fault> {
        // What was not confirmed must never look like it: with `flushed` zero the server takes `written` for it.
        let written = if status.flushed == Position::ZERO { Position::ZERO } else { status.written };
        let now = now();
        self.outgoing.frame(b'd', |body| {
            body.push(b'r');
            for position in [written, status.flushed, status.applied] {
                body.extend_from_slice(&position.0.to_be_bytes());
            }
            body.extend_from_slice(&now.0.to_be_bytes());
            body.push(u8::from(status.reply_requested));
        })?;
        self.outgoing.flush().await
    }

    /// Ends the stream (CopyDone).
    pub async fn finish(mut self) -> Result<(), Fault> {
        self.outgoing.frame(b'c', |_| {})?;
        self.outgoing.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Remedy;

    fn message(severity: &str, sqlstate: &str) -> ServerMessage {
        ServerMessage { severity: severity.into(), sqlstate: sqlstate.into(), ..ServerMessage::default() }
    }

    #[test]
    fn data_and_keepalives_are_parsed() {
        let mut body = vec![b'w'];
        for number in [1u64, 2, 3] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.extend_from_slice(b"hello");
        let expected = Event::Data { wal_start: Lsn(1), send_time: Timestamp(3), message: b"hello" };
        assert_eq!(copy_data(&body), Some(expected));
        let mut body = vec![b'k'];
        body.extend_from_slice(&7u64.to_be_bytes());
        body.extend_from_slice(&(-1i64).to_be_bytes());
        assert_eq!(copy_data(&body), None);
        body.push(1);
        let expected =
            Event::Keepalive { wal_end: Position(7), send_time: Timestamp(-1), reply_requested: true };
        assert_eq!(copy_data(&body), Some(expected));
        for size in 0..body.len() {
            assert_eq!(copy_data(body.get(..size).unwrap()), None);
        }
    }

    #[test]
    fn a_skipped_publication_is_no_mere_notice() {
        assert_eq!(notice(message("WARNING", "55000")).unwrap_err().remedy, Remedy::Person);
        assert!(matches!(notice(message("NOTICE", "00000")), Ok(Event::Notice { .. })));
    }

    #[test]
    fn a_slot_in_use_may_become_free_a_lost_one_may_not() {
        for (sqlstate, remedy) in [
            ("55006", Remedy::Retry),
            ("55000", Remedy::Person),
            ("42704", Remedy::Person),
            ("57P01", Remedy::Retry),
        ] {
            assert_eq!(slot_fault(message("ERROR", sqlstate)).remedy, remedy, "{sqlstate}");
        }
    }
}
