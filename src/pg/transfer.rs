//! COPY: rows in bulk from one server to the other, in messages that are passed on as they come, or from memory.

use std::time::Duration;

use super::copy_rows::CopyRows;
use super::frames::{Frame, put_string};
use super::pipeline::Pipeline;
use super::rows::settle;
use super::server_message::ServerMessage;
use crate::model::{Fault, Format, Remedy};

/// The text of COPY is cut into messages of this size when it comes from memory.
const MESSAGE_SIZE: usize = 64 * 1024;
/// What is handed on at a time, at least, until the end.
const PIECE_SIZE: usize = 256 * 1024;

/// Makes a row in text form another one, which it appends; false where the target is not to have it.
pub type Reshape<'r> = dyn FnMut(&[u8], &mut CopyRows) -> Result<bool, Fault> + Send + 'r;

/// Runs `out` (`COPY … TO STDOUT`) on one connection and `into` (`COPY … FROM STDIN`, of the same format) on the other, and passes the rows on,
/// as they are or reshaped.
/// `moved` hears of messages, mostly a row each, and bytes as they pass, and says for how long nothing more is to be read. Gives the number of rows. After a fault neither connection is of use.
pub async fn transfer(
    source: &mut Pipeline,
    out: &str,
    target: &mut Pipeline,
    into: &str,
    mut reshape: Option<&mut Reshape<'_>>,
    mut moved: impl FnMut(u64, u64) -> Duration,
) -> Result<u64, Fault> {
    let (mut rows_left_out, mut reshaped) = (0, CopyRows::new(Format::Text, 0));
    start(source, out, b'H').await.map_err(of_source)?;
    start(target, into, b'G').await.map_err(of_target)?;
    loop {
        let reading = &mut source.reader.incoming;
        let (rows, bytes) = match &mut reshape {
            None => reading.pass_rows(&mut target.writer.outgoing.buffer).map_err(of_source)?,
            Some(reshape) => {
                let (mut rows, mut bytes) = (0, 0);
                while let Some(line) = reading.next_row().map_err(of_source)? {
                    (rows, bytes) = (rows + 1, bytes + line.len() as u64);
                    let is_wanted = reshape(line.strip_suffix(b"\n").unwrap_or(line), &mut reshaped)?;
                    rows_left_out += u64::from(!is_wanted);
                }
                if !reshaped.waiting().is_empty() {
                    target.writer.copy_data(reshaped.waiting())?;
                    reshaped.clear();
                }
                (rows, bytes)
            }
        };
        let pause = moved(rows, bytes);
        if pause > Duration::ZERO {
            target.writer.outgoing.flush().await.map_err(of_target)?;
            tokio::time::sleep(pause).await;
        }
        match reading.try_next().map_err(of_source)? {
            Some(Frame { tag: b'c', .. }) => break,
            Some(Frame { tag: b'E', body }) => {
                return Err(of_source(ServerMessage::parse(body).into_fault()));
            }
            Some(_) => continue,
            None => {}
        }
        while let Some(frame) = target.reader.incoming.try_next().map_err(of_target)? {
            if frame.tag == b'E' {
                return Err(of_target(ServerMessage::parse(frame.body).into_fault()));
            }
        }
        let (writing, complaint) = (&mut target.writer.outgoing, &mut target.reader.incoming);
        let reading = &mut source.reader.incoming;
        let pass = async {
            let read = async { reading.fill().await.map_err(of_source) };
            let written = async { writing.flush().await.map_err(of_target) };
            tokio::try_join!(read, written)
        };
        tokio::select! {
            biased;
            heard = complaint.fill() => drop(heard.map_err(of_target)?),
            passed = pass => drop(passed?),
        }
    }
    let sent = settle(&mut source.reader.incoming).await.map_err(of_source)?;
    target.writer.copy_done()?;
    target.writer.flush().await.map_err(of_target)?;
    let taken = settle(&mut target.reader.incoming).await.map_err(of_target)?;
    let sent = sent.saturating_sub(rows_left_out);
    if sent != taken {
        return Err(Fault::stop(format!("the source sent {sent} rows, and the target took {taken}")));
    }
    Ok(taken)
}

/// Runs `out` (`COPY … TO STDOUT`) and hands on what it prints, in pieces of some size; gives the number of rows. `moved` hears of messages and
/// bytes as they come. After a fault the connection is of no use.
pub async fn unload(
    source: &mut Pipeline,
    out: &str,
    mut hand_on: impl AsyncFnMut(Vec<u8>) -> Result<(), Fault>,
    mut moved: impl FnMut(u64, u64),
) -> Result<u64, Fault> {
    start(source, out, b'H').await.map_err(of_source)?;
    let reading = &mut source.reader.incoming;
    let mut piece = Vec::with_capacity(PIECE_SIZE);
    loop {
        let (mut messages, before) = (0, piece.len());
        let ended = loop {
            match reading.try_next().map_err(of_source)? {
                Some(Frame { tag: b'd', body }) => {
                    messages += 1;
                    piece.extend_from_slice(body);
                }
                Some(Frame { tag: b'c', .. }) => break true,
                Some(Frame { tag: b'E', body }) => {
                    return Err(of_source(ServerMessage::parse(body).into_fault()));
                }
                Some(_) => {}
                None => break false,
            }
        };
        moved(messages, (piece.len() - before) as u64);
        if piece.len() >= PIECE_SIZE || (ended && !piece.is_empty()) {
            hand_on(std::mem::replace(&mut piece, Vec::with_capacity(PIECE_SIZE))).await?;
        }
        if ended {
            return settle(reading).await.map_err(of_source);
        }
        reading.fill().await.map_err(of_source)?;
    }
}

/// Runs `into` (`COPY … FROM STDIN`) with the pieces that come until there is none; gives the number of rows. After a fault the connection
/// is of no use.
pub async fn load_pieces(
    target: &mut Pipeline,
    into: &str,
    mut next: impl AsyncFnMut() -> Result<Option<Vec<u8>>, Fault>,
    mut moved: impl FnMut(u64),
) -> Result<u64, Fault> {
    start(target, into, b'G').await.map_err(of_target)?;
    while let Some(piece) = next().await? {
        for message in piece.chunks(MESSAGE_SIZE) {
            target.writer.copy_data(message)?;
            let (writing, complaint) = (&mut target.writer.outgoing, &mut target.reader.incoming);
            tokio::select! {
                heard = complaint.fill() => drop(heard.map_err(of_target)?),
                written = writing.flush() => written.map_err(of_target)?,
            }
            while let Some(frame) = target.reader.incoming.try_next().map_err(of_target)? {
                if frame.tag == b'E' {
                    return Err(of_target(ServerMessage::parse(frame.body).into_fault()));
                }
            }
        }
        moved(piece.len() as u64);
    }
    target.writer.copy_done()?;
    target.writer.flush().await.map_err(of_target)?;
    settle(&mut target.reader.incoming).await.map_err(of_target)
}

/// Runs `into` (`COPY … FROM STDIN`) with rows that are in its format; gives how many they were.
pub async fn load(target: &mut Pipeline, into: &str, rows: &[u8]) -> Result<u64, Fault> {
    start(target, into, b'G').await?;
    for piece in rows.chunks(MESSAGE_SIZE) {
        target.writer.copy_data(piece)?;
        let (writing, complaint) = (&mut target.writer.outgoing, &mut target.reader.incoming);
        // An error shows at the end; until then the server takes what comes and drops it.
        tokio::select! {
            heard = complaint.fill() => drop(heard?),
            written = writing.flush() => written?,
        }
    }
    target.writer.copy_done()?;
    target.writer.flush().await?;
    settle(&mut target.reader.incoming).await
}

/// Sends the COPY and waits for the answer that it goes on.
async fn start(connection: &mut Pipeline, sql: &str, answer: u8) -> Result<(), Fault> {
    connection.writer.outgoing.frame(b'Q', |body| put_string(body, sql))?;
    connection.writer.outgoing.flush().await?;
    loop {
        let frame = connection.reader.incoming.next().await?;
        match frame.tag {
            b'E' => return Err(ServerMessage::parse(frame.body).into_fault()),
            tag if tag == answer => return Ok(()),
            b'N' | b'S' | b'A' => {}
            tag => {
                return Err(Fault::stop(format!("message '{}' is no answer to COPY", tag.escape_ascii())));
            }
        }
    }
}

fn of_source(fault: Fault) -> Fault {
    known(fault).context("source")
}

fn of_target(fault: Fault) -> Fault {
    known(fault).context("target")
}

/// Nothing has been committed.
fn known(mut fault: Fault) -> Fault {
    if fault.remedy == Remedy::Reread {
        fault.remedy = Remedy::Retry;
    }
    fault
}
