//! Writing a segment: records in, the file's next bytes out.

use bytes::Bytes;

use crate::model::Position;

use super::codec::Squeeze;
use super::key::Cipher;
use super::{
    BOX_BYTES, Damage, Encryption, Footer, FrameEntry, FrameHeader, HEADER_BYTES, Header, Ledger,
    TRAILER_BYTES, Trailer,
};

/// A run of records that is to become one frame.
#[derive(Clone, Debug)]
pub struct Cut {
    pub raw: Bytes,
    /// Whether no transaction is unfinished at its end.
    pub ends_on_commit: bool,
    /// How far the log goes with it.
    pub through: Position,
}

/// Frames of fewer bytes of records are not transposed as they are written: they come while the source waits for nothing,
/// and are merged later.
const TRANSPOSED_BYTES_MIN: usize = 256 << 10;

/// One segment in the making. It gives bytes and remembers what the footer will say; where they go is not its business.
pub struct Encoder {
    header: Header,
    squeeze: Squeeze,
    cipher: Option<Cipher>,
    transposed_bytes_min: usize,
    ledger: Ledger,
    frames: Vec<FrameEntry>,
    end: u64,
    /// Frames and bytes up to the last frame that ends between transactions.
    committed: (usize, u64),
}

impl Encoder {
    /// Encrypted or not, whatever the header says of that; [`Encoder::header`] is what the file begins with.
    pub fn new(header: Header, zstd_level: i32, encryption: Option<Encryption>) -> Encoder {
        let header = Header { encrypted: encryption.is_some(), ..header };
        Encoder {
            cipher: encryption.map(|encryption| encryption.cipher(&header)),
            squeeze: Squeeze::new(zstd_level),
            transposed_bytes_min: TRANSPOSED_BYTES_MIN,
            ledger: Ledger::new(header.after, header.chain),
            frames: Vec::new(),
            end: HEADER_BYTES as u64,
            committed: (0, HEADER_BYTES as u64),
            header,
        }
    }

    /// One that transposes frames of any length, wherever that is shorter.
    pub fn transposing(header: Header, zstd_level: i32, encryption: Option<Encryption>) -> Encoder {
        Encoder { transposed_bytes_min: 0, ..Encoder::new(header, zstd_level, encryption) }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// Where the next frame goes: the length of the file so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The length of the file up to the last frame that ends between transactions.
    pub fn committed_end(&self) -> u64 {
        self.committed.1
    }

    /// Appends the next frame's bytes to `out`.
    pub fn frame(&mut self, cut: &Cut, out: &mut Vec<u8>) -> Result<FrameEntry, Damage> {
        let content = self.ledger.frame(&cut.raw, cut.ends_on_commit, cut.through)?;
        let raw_len =
            u32::try_from(cut.raw.len()).map_err(|_| Damage::Malformed("a frame that is too long"))?;
        let (codec, stored) = if cut.raw.len() >= self.transposed_bytes_min {
            self.squeeze.encode_records(&cut.raw)
        } else {
            let (codec, stored) = self.squeeze.encode(&cut.raw);
            (codec, stored.into())
        };
        let header = FrameHeader {
            codec,
            ends_on_commit: content.ends_on_commit,
            has_relations: content.has_relations,
            starts_in_transaction: content.starts_in_transaction,
            raw_len,
            stored_len: 0,
            transactions: content.transactions,
            changes: content.changes,
            first: content.first.unwrap_or(cut.through),
            through: cut.through,
        };
        let header = put(header, &stored, self.end, self.cipher.as_ref(), out);
        Ok(self.push(header))
    }

    /// Appends a frame as another segment has it: its [stored](FrameHeader::stored) payload and the records in that.
    pub fn copy(
        &mut self,
        header: FrameHeader,
        stored: &[u8],
        raw: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        let header = put(header, stored, self.end, self.cipher.as_ref(), out);
        self.restore(header, raw)
    }

    /// Takes in a frame that is in the file already.
    pub fn restore(&mut self, header: FrameHeader, raw: &[u8]) -> Result<(), Damage> {
        let content = self.ledger.frame(raw, header.ends_on_commit, header.through)?;
        if !header.describes(&content) {
            return Err(Damage::Malformed("a frame header"));
        }
        self.push(header);
        Ok(())
    }

    fn push(&mut self, header: FrameHeader) -> FrameEntry {
        let entry = FrameEntry { offset: self.end, header };
        self.frames.push(entry);
        self.end = self.end.saturating_add(header.len());
        if header.ends_on_commit {
            self.committed = (self.frames.len(), self.end);
        }
        entry
    }

    /// Forgets the frames of the unfinished transaction and gives the length that the file is to be cut to.
    pub fn discard(&mut self) -> u64 {
        self.ledger.discard();
        self.frames.truncate(self.committed.0);
        self.end = self.committed.1;
        self.end
    }

    /// Appends footer and trailer to `out`. An unfinished transaction must have been discarded.
    pub fn seal(&self, out: &mut Vec<u8>) -> Trailer {
        assert_eq!(self.end, self.committed.1, "a segment is sealed between transactions");
        let mut footer = Vec::new();
        let (commits, relations) = (self.ledger.commits(), self.ledger.relations());
        let pins = self.ledger.pins();
        Footer::encode(self.header.after, &self.frames, commits, relations, pins, &mut footer);
        let mut trailer = Trailer {
            footer_offset: self.end,
            footer_len: 0,
            footer_checksum: 0,
            through: self.ledger.through(),
            totals: self.ledger.totals(),
            chain: self.ledger.chain(),
        };
        if let Some(cipher) = &self.cipher {
            footer = cipher.seal(&footer, &trailer.about());
        }
        trailer.footer_len = footer.len() as u64;
        trailer.footer_checksum = crc32c::crc32c(&footer);
        out.reserve(footer.len().saturating_add(TRAILER_BYTES));
        out.extend_from_slice(&footer);
        out.extend_from_slice(&trailer.encode());
        trailer
    }

    /// What [`Encoder::seal`] writes as footer.
    pub fn footer(&self) -> Footer {
        Footer {
            frames: self.frames.clone(),
            commits: self.ledger.commits().to_vec(),
            relations: self.ledger.relations().cloned().collect(),
            pins: self.ledger.pins().to_vec(),
        }
    }
}

/// Appends a frame that starts at `offset`, encrypted where there is a cipher.
fn put(
    header: FrameHeader,
    stored: &[u8],
    offset: u64,
    cipher: Option<&Cipher>,
    out: &mut Vec<u8>,
) -> FrameHeader {
    let box_bytes = if cipher.is_some() { BOX_BYTES } else { 0 };
    let header = FrameHeader { stored_len: stored.len().saturating_add(box_bytes) as u32, ..header };
    match cipher {
        None => header.encode(stored, out),
        Some(cipher) => header.encode(&cipher.seal(stored, &header.about(offset)), out),
    }
    header
}
