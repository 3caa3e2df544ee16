//! Messages of the protocol, cut out of the byte stream: a tag, a length, a body (PostgreSQL documentation, 55.7).
//!
//! Reading hands out slices of one buffer that is filled by large reads; nothing is allocated for a message.
//! Both directions may be cancelled at any await and continued: no byte is lost or sent twice.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::model::Fault;

const READ_SIZE: usize = 256 * 1024;
/// A buffer that grew beyond this for one large message is given back when it is empty.
const KEEP_SIZE: usize = 4 * 1024 * 1024;
/// The server's own limit (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB - 1), with room for what wraps a value.
const MESSAGE_SIZE_MAX: usize = (1 << 30) + (1 << 20);

pub(super) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) tag: u8,
    pub(super) body: &'a [u8],
}

/// The read half and what was read ahead: `buffer[start..end]`.
pub(super) struct Incoming {
    half: ReadHalf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    pub(super) fn new(half: ReadHalf) -> Incoming {
        Incoming { half, buffer: vec![0; READ_SIZE], start: 0, end: 0 }
    }

    fn ahead(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The size of the next message with its tag, once its head is here.
    fn next_size(&self) -> Result<Option<usize>, Fault> {
        let Some(head) = self.ahead().first_chunk::<5>() else { return Ok(None) };
        let [_, a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MESSAGE_SIZE_MAX).contains(&length) {
            return Err(Fault::retry(
                "the server sent a message with an impossible length; is it PostgreSQL?",
            ));
        }
        Ok(Some(length + 1))
    }

    /// The tag of the next message, as soon as its first byte is here.
    pub(super) fn next_tag(&self) -> Option<u8> {
        self.ahead().first().copied()
    }

    /// Whether a whole message is here, so that [`Incoming::try_next`] gives one.
    pub(super) fn has_next(&self) -> Result<bool, Fault> {
        Ok(self.next_size()?.is_some_and(|size| size <= self.end - self.start))
    }

    /// The next message, if it is wholly here. Makes no system call.
    pub(super) fn try_next(&mut self) -> Result<Option<Frame<'_>>, Fault> {
        let Some(size) = self.next_size()? else { return Ok(None) };
        if size > self.end - self.start {
            return Ok(None);
        }
        let begin = self.start;
        self.start += size;
        let frame = self.buffer.get(begin..self.start).unwrap_or_default();
        Ok(frame.split_at_checked(5).and_then(|(head, body)| Some(Frame { tag: *head.first()?, body })))
    }

    /// Moves the CopyData messages that are wholly here to `into`, as they are; gives how many, and how many bytes of rows.
    pub(super) fn pass_rows(&mut self, into: &mut Vec<u8>) -> Result<(u64, u64), Fault> {
        let (begin, mut messages) = (self.start, 0);
        while self.next_tag() == Some(b'd')
            && let Some(size) = self.next_size()?
            && size <= self.end - self.start
        {
            self.start += size;
            messages += 1;
        }
        let passed = self.buffer.get(begin..self.start).unwrap_or_default();
        into.extend_from_slice(passed);
        Ok((messages, (passed.len() as u64).saturating_sub(5 * messages)))
    }

    /// The CopyData message that comes next, if it is wholly here.
    pub(super) fn next_row(&mut self) -> Result<Option<&[u8]>, Fault> {
        match self.next_tag() {
            Some(b'd') => Ok(self.try_next()?.map(|frame| frame.body)),
            _ => Ok(None),
        }
    }

    /// Reads more and says how many bytes. Fails where the connection is closed. Cancel-safe.
    pub(super) async fn fill(&mut self) -> Result<usize, Fault> {
        self.make_room()?;
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match self.half.read(room).await {
            Ok(0) => Err(Fault::retry("the server closed the connection")),
            Ok(count) => {
                self.end += count;
                Ok(count)
            }
            Err(error) => Err(Fault::retry(format!("connection to the server lost: {error}"))),
        }
    }

    /// Gets free space behind `end`: never for a whole message on the word of its head alone, but by doubling as
    /// its bytes come.
    fn make_room(&mut self) -> Result<(), Fault> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP_SIZE {
                self.buffer = vec![0; READ_SIZE];
            }
        }
        let size = self.next_size()?.unwrap_or(0);
        let free = self.buffer.len() - self.end;
        if free == 0 || (self.start > 0 && self.start + size > self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        Ok(())
    }

    /// The next message, waiting for it. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Frame<'_>, Fault> {
        while !self.has_next()? {
            self.fill().await?;
        }
        self.try_next()?.ok_or_else(|| Fault::retry("the server sent an empty message"))
    }

    /// Gives the half back with the bytes read ahead.
    pub(super) fn into_parts(self) -> (ReadHalf, Vec<u8>) {
        let ahead = self.ahead().to_vec();
        (self.half, ahead)
    }
}

/// The write half and what waits to be written: `buffer[written..]`.
pub(super) struct Outgoing {
    half: WriteHalf,
    pub(super) buffer: Vec<u8>,
    written: usize,
}

impl Outgoing {
    pub(super) fn new(half: WriteHalf) -> Outgoing {
        Outgoing { half, buffer: Vec::with_capacity(8 * 1024), written: 0 }
    }

    pub(super) fn pending(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// Appends a message whose body `write` gives, and puts its length in. One that is too large leaves nothing.
    pub(super) fn frame(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Fault> {
        let start = self.buffer.len();
        self.buffer.push(tag);
        self.untagged(write).inspect_err(|_| self.buffer.truncate(start))
    }

    /// A message without a tag, as the first ones of a connection are.
    pub(super) fn untagged(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Fault> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        write(&mut self.buffer);
        let length = self.buffer.len() - start;
        match (u32::try_from(length), self.buffer.get_mut(start..start + 4)) {
            (Ok(size), Some(place)) if length <= MESSAGE_SIZE_MAX => {
                place.copy_from_slice(&size.to_be_bytes());
                Ok(())
            }
            _ => Err(Fault::stop(format!("a message of {length} bytes is larger than PostgreSQL admits"))),
        }
    }

    /// Writes all that waits. Cancel-safe: the rest is written by the next call.
    pub(super) async fn flush(&mut self) -> Result<(), Fault> {
        let lost = |error: std::io::Error| Fault::retry(format!("connection to the server lost: {error}"));
        while let Some(rest) = self.buffer.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.half.write(rest).await.map_err(lost)? {
                0 => return Err(Fault::retry("the server closed the connection")),
                count => self.written += count,
            }
        }
        self.half.flush().await.map_err(lost)?;
        self.buffer.clear();
        self.written = 0;
        if self.buffer.capacity() > KEEP_SIZE {
            self.buffer.shrink_to(READ_SIZE);
        }
        Ok(())
    }

    pub(super) fn into_half(self) -> WriteHalf {
        self.half
    }
}

/// Appends a string with its closing zero byte. A zero byte inside, which no name nor text of PostgreSQL can hold,
/// would end it early and let the rest pass for something else: it is left out.
pub(super) fn put_string(buffer: &mut Vec<u8>, text: &str) {
    match memchr::memchr(0, text.as_bytes()) {
        None => buffer.extend_from_slice(text.as_bytes()),
        Some(_) => buffer.extend(text.bytes().filter(|byte| *byte != 0)),
    }
    buffer.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    /// Gives its bytes in chunks of one size.
    struct Chunks(Vec<u8>, usize);

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let count = self.1.min(self.0.len()).min(into.remaining());
            let chunk: Vec<u8> = self.0.drain(..count).collect();
            into.put_slice(&chunk);
            Poll::Ready(Ok(()))
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[tokio::test]
    async fn cuts_the_same_messages_from_any_chunks() {
        let bodies: Vec<Vec<u8>> =
            [0, 1, 4, 300, READ_SIZE - 5, READ_SIZE, 3 * READ_SIZE, 7, KEEP_SIZE + 9, 2]
                .iter()
                .enumerate()
                .map(|(index, size)| vec![index as u8; *size])
                .collect();
        let all: Vec<u8> = bodies.iter().flat_map(|body| message(b'd', body)).collect();
        for chunk in [4093, READ_SIZE - 1, READ_SIZE, usize::MAX] {
            let mut incoming = Incoming::new(Box::new(Chunks(all.clone(), chunk)));
            for body in &bodies {
                let frame = incoming.next().await.unwrap();
                assert_eq!((frame.tag, frame.body.len()), (b'd', body.len()));
                assert!(frame.body == body.as_slice());
            }
            assert!(incoming.next().await.unwrap_err().message.contains("closed"));
        }
    }

    #[tokio::test]
    async fn impossible_lengths_are_refused() {
        for length in [0u32, 3, u32::MAX, 1 << 31] {
            let mut bytes = vec![b'd'];
            bytes.extend_from_slice(&length.to_be_bytes());
            let mut incoming = Incoming::new(Box::new(Chunks(bytes, 99)));
            assert!(incoming.next().await.unwrap_err().message.contains("impossible length"));
        }
    }
}
