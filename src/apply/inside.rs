//! An ordinary client over the applier's own connection, inside the transaction that it has in hand.
//!
//! After DDL only this transaction sees the tables as they are, and a look-up over another connection would see those from
//! before. So a client's messages are put between those of the pipeline, while nothing of it is under way, and the
//! server's answers are handed to it:
//!
//! ```text
//! look-ups, DDL ─► Client ─► duplex ─► Session::serve ─► the connection
//!                    ▲                                        │
//!                    └──────── replies, while diverted ◄──────┘
//! ```

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use crate::model::Fault;
use crate::pg::control;

const BUFFER_BYTES: usize = 64 << 10;

/// The client, and the other end of what it speaks through.
pub(super) struct Inside {
    pub(super) client: Client,
    pub(super) line: Line,
    pub(super) answers: mpsc::UnboundedReceiver<Vec<u8>>,
    pub(super) elsewhere: mpsc::UnboundedSender<Vec<u8>>,
}

/// The side of the session.
pub(super) struct Line {
    hears: ReadHalf<DuplexStream>,
    speaks: WriteHalf<DuplexStream>,
    heard: BytesMut,
    to_speak: BytesMut,
    /// The client's start-up message has been passed over.
    started: bool,
    /// Requests that the server has not finished: each ends with ReadyForQuery.
    outstanding: usize,
}

impl Inside {
    pub(super) async fn open() -> Result<Inside, Fault> {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        let (hears, mut speaks) = tokio::io::split(far);
        let lost = |error: std::io::Error| Fault::stop(format!("speaking to a client of our own: {error}"));
        speaks.write_all(control::GREETING).await.map_err(lost)?;
        let client = control::through(near).await?;
        let (elsewhere, answers) = mpsc::unbounded_channel();
        let line = Line {
            hears,
            speaks,
            heard: BytesMut::new(),
            to_speak: BytesMut::new(),
            started: false,
            outstanding: 0,
        };
        Ok(Inside { client, line, answers, elsewhere })
    }
}

impl Line {
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Takes what the server said, to be told to the client.
    pub(super) fn answered(&mut self, message: &[u8]) {
        if message.first() == Some(&b'Z') {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        self.to_speak.extend_from_slice(message);
    }

    /// Waits for a whole message of the client's, and tells it what is to be told meanwhile. Cancel-safe.
    pub(super) async fn next(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            if let Some(message) = self.take_message() {
                return Ok(message);
            }
            tokio::select! {
                read = self.hears.read_buf(&mut self.heard) => {
                    if read? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
                written = self.speaks.write_buf(&mut self.to_speak), if !self.to_speak.is_empty() => {
                    written?;
                }
            }
        }
    }

    fn take_message(&mut self) -> Option<Vec<u8>> {
        loop {
            let tagged = usize::from(self.started);
            let length = self.heard.get(tagged..tagged + 4)?.first_chunk::<4>()?;
            let length = u32::from_be_bytes(*length) as usize + tagged;
            let message = self.heard.get(..length)?.to_vec();
            self.heard.advance(length);
            match message.first() {
                _ if !std::mem::replace(&mut self.started, true) => {}
                // Its good-bye is not the connection's.
                Some(b'X') => {}
                Some(b'Q' | b'S') => {
                    self.outstanding += 1;
                    return Some(message);
                }
                _ => return Some(message),
            }
        }
    }
}
