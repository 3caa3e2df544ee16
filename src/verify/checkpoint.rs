//! How far a verification has come, in a small file of the archive's folder, so that one that was broken off can be gone on with.

use serde::{Deserialize, Serialize};

use crate::archive::{Archive, disk};
use crate::model::Position;

use super::Problem;
use super::walk::{Line, Stand};

const NAME: &str = "verifying.json";

/// What was kept, and still holds.
pub(super) struct Kept {
    pub(super) stand: Stand,
    pub(super) problems: Vec<Problem>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    quick: bool,
    through: Position,
    chain: Option<String>,
    encrypted: bool,
    /// Of the names and lengths of the segments so far: while they are the same, what was found of them holds.
    segments_digest: String,
    segments: u64,
    indexed: u64,
    bytes: u64,
    transactions: u64,
    changes: u64,
    problems: Vec<Problem>,
}

/// Takes one more segment in.
pub(super) fn digest(before: [u8; 32], line: Line) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before).update(line.name.to_string().as_bytes()).update(&line.bytes.to_le_bytes());
    *hasher.finalize().as_bytes()
}

fn hex(bytes: [u8; 32]) -> String {
    blake3::Hash::from_bytes(bytes).to_hex().to_string()
}

/// One that can't be written is one that can't be gone on with, and no more than that.
pub(super) fn write(archive: &Archive, quick: bool, stand: &Stand, problems: &[Problem]) {
    let written = Written {
        quick,
        through: stand.through,
        chain: stand.chain.map(hex),
        encrypted: stand.encrypted,
        segments_digest: hex(stand.digest),
        segments: stand.segments,
        indexed: stand.indexed,
        bytes: stand.bytes,
        transactions: stand.transactions,
        changes: stand.changes,
        problems: problems.to_vec(),
    };
    let Ok(text) = serde_json::to_vec(&written) else { return };
    if let Err(error) = disk::write_once(archive.root(), NAME, &text) {
        tracing::warn!(%error, "it can't be kept how far the verification has come");
    }
}

pub(super) fn remove(archive: &Archive) {
    // One that stays is only ever used where it still holds.
    let _ = std::fs::remove_file(archive.root().join(NAME));
}

/// What an earlier verification has kept, unless the segments have changed since.
pub(super) fn read(archive: &Archive, quick: bool, lines: &[Line]) -> Option<Kept> {
    let text = std::fs::read(archive.root().join(NAME)).ok()?;
    let found = serde_json::from_slice(&text).ok().and_then(|written| still_holds(written, quick, lines));
    if found.is_none() {
        tracing::warn!("the segments have changed since the verification was broken off: it begins anew");
    }
    found
}

fn still_holds(written: Written, quick: bool, lines: &[Line]) -> Option<Kept> {
    // A quick look proves less than a whole one.
    if written.quick && !quick {
        return None;
    }
    let unhex = |text: &str| blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes());
    let is_before = |line: &&Line| line.name.through.is_some_and(|through| through <= written.through);
    let digest = lines.iter().take_while(is_before).fold([0; 32], |before, line| digest(before, *line));
    if unhex(&written.segments_digest)? != digest {
        return None;
    }
    let chain = match &written.chain {
        Some(text) => Some(unhex(text)?),
        None => None,
    };
    let stand = Stand {
        through: written.through,
        chain,
        encrypted: written.encrypted,
        segments: written.segments,
        indexed: written.indexed,
        bytes: written.bytes,
        transactions: written.transactions,
        changes: written.changes,
        problems: written.problems.len(),
        digest,
    };
    Some(Kept { stand, problems: written.problems })
}
