//! Full verification of one sealed segment: every byte lies under a checksum, everything that it says of itself is
//! worked out again from its messages and compared.

use crate::model::Position;

use super::{
    Damage, FRAME_HEADER_BYTES, Footer, FrameEntry, FrameHeader, FrameScratch, HEADER_BYTES, Header, Keyring,
    Ledger, Opener, TRAILER_BYTES, Totals, Trailer,
};

/// The first thing found wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset}: {damage}")]
pub struct Flaw {
    pub offset: u64,
    pub damage: Damage,
}

/// A segment that is as it should be.
#[derive(Clone, Debug)]
pub struct Checked {
    pub header: Header,
    pub trailer: Trailer,
    pub footer: Footer,
}

/// Checks frame after frame against the account of the messages; works for open segments too.
pub struct FrameCheck {
    ledger: Ledger,
    frames: Vec<FrameEntry>,
    end: u64,
    opener: Opener,
    scratch: FrameScratch,
}

impl FrameCheck {
    pub fn new(header: &Header, keys: &Keyring) -> FrameCheck {
        FrameCheck {
            ledger: Ledger::new(header.after, header.chain),
            frames: Vec::new(),
            end: HEADER_BYTES as u64,
            opener: Opener::new(header, keys),
            scratch: FrameScratch::default(),
        }
    }

    /// Where the next frame starts.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// How long the frame is that starts with these bytes; it must not reach beyond `limit`.
    pub fn next(&self, header: &[u8], limit: u64) -> Result<FrameHeader, Flaw> {
        let header = FrameHeader::decode(header).map_err(|damage| self.flaw(damage))?;
        match self.end.checked_add(header.len()) {
            Some(end) if end <= limit => Ok(header),
            _ => Err(self.flaw(Damage::Short("a frame"))),
        }
    }

    /// Takes the whole frame, of [`FrameHeader::len`] bytes, and gives its records.
    pub fn frame(&mut self, frame: &[u8]) -> Result<Vec<u8>, Flaw> {
        let header = FrameHeader::decode(frame).map_err(|damage| self.flaw(damage))?;
        let raw = header.payload(frame, self.end, &self.opener, &mut self.scratch);
        let raw = raw.map_err(|damage| self.flaw(damage))?;
        let content = self.ledger.frame(&raw, header.ends_on_commit, header.through);
        let content = content.map_err(|damage| self.flaw(damage))?;
        if !header.describes(&content) {
            return Err(self.flaw(Damage::Malformed("a frame header")));
        }
        self.frames.push(FrameEntry { offset: self.end, header });
        self.end = self.end.saturating_add(header.len());
        Ok(raw)
    }

    pub fn flaw(&self, damage: Damage) -> Flaw {
        Flaw { offset: self.end, damage }
    }

    /// Whether footer and trailer say what the frames hold.
    fn compare(&self, trailer: &Trailer, footer: &Footer) -> Result<(), &'static str> {
        let says = |same: bool, what: &'static str| if same { Ok(()) } else { Err(what) };
        says(self.ledger.through() == trailer.through, "the end in the segment trailer")?;
        says(self.ledger.chain() == trailer.chain, "the chain's value in the segment trailer")?;
        says(self.ledger.totals() == trailer.totals, "the totals in the segment trailer")?;
        says(self.frames == footer.frames, "the frame index in the segment footer")?;
        says(self.ledger.commits() == footer.commits, "the commits in the segment footer")?;
        says(self.ledger.relations().eq(&footer.relations), "the relations in the segment footer")?;
        says(self.ledger.pins() == footer.pins, "the pins in the segment footer")
    }
}

/// Whether what a segment says of itself at its two ends fits together: all that can be told without its frames.
pub fn check_ends(header: &Header, trailer: &Trailer, footer: &Footer) -> Result<(), Flaw> {
    let flaw = |what: &'static str| Flaw { offset: trailer.footer_offset, damage: Damage::Malformed(what) };
    let frames = flaw("the frame index in the segment footer");
    let mut totals = Totals::default();
    let (mut end, mut through, mut is_between) = (HEADER_BYTES as u64, header.after, true);
    let mut rest = footer.commits.as_slice();
    for FrameEntry { offset, header: frame } in &footer.frames {
        if *offset != end || frame.starts_in_transaction == is_between || frame.through < through {
            return Err(frames);
        }
        let split = rest.split_at_checked(frame.transactions as usize).ok_or_else(|| frames.clone())?;
        let (commits, behind) = split;
        for commit in commits {
            if commit.end <= through || commit.end > frame.through {
                return Err(flaw("the commits in the segment footer"));
            }
            through = commit.end;
        }
        if commits.first().is_some_and(|first| first.end != frame.first) {
            return Err(frames);
        }
        totals.changes += u64::from(frame.changes);
        totals.raw_bytes += u64::from(frame.raw_len);
        (end, through, is_between, rest) =
            (end.saturating_add(frame.len()), frame.through, frame.ends_on_commit, behind);
    }
    if end != trailer.footer_offset || through != trailer.through || !is_between || !rest.is_empty() {
        return Err(frames);
    }
    let is_commit = |end: &Position| footer.commits.binary_search_by_key(end, |commit| commit.end).is_ok();
    if !footer.pins.iter().all(|pin| is_commit(&pin.end)) {
        return Err(flaw("the pins in the segment footer"));
    }
    let times = || footer.commits.iter().map(|commit| commit.time);
    totals.transactions = footer.commits.len() as u64;
    totals.first_time = times().min().unwrap_or_default();
    totals.last_time = times().max().unwrap_or_default();
    if totals != trailer.totals {
        return Err(flaw("the totals in the segment trailer"));
    }
    Ok(())
}

/// Checks a sealed segment of `file_len` bytes, read through `read(offset, length)`. `each` sees every frame's records
/// and may object to them.
pub fn check_sealed<E: From<Flaw>>(
    file_len: u64,
    keys: &Keyring,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
    mut each: impl FnMut(&FrameHeader, &[u8]) -> Result<(), Damage>,
) -> Result<Checked, E> {
    let flaw = |offset: u64, damage: Damage| E::from(Flaw { offset, damage });
    let trailer_offset = file_len
        .checked_sub(TRAILER_BYTES as u64)
        .filter(|offset| *offset >= HEADER_BYTES as u64)
        .ok_or_else(|| flaw(file_len, Damage::Short("the segment")))?;
    let header = Header::decode(&read(0, HEADER_BYTES)?).map_err(|damage| flaw(0, damage))?;
    let trailer = Trailer::decode(&read(trailer_offset, TRAILER_BYTES)?, file_len)
        .map_err(|damage| flaw(trailer_offset, damage))?;
    let bytes = read(trailer.footer_offset, trailer.footer_len as usize)?;
    let footer = Footer::decode(&bytes, &trailer, header.after, &Opener::new(&header, keys));
    let footer = footer.map_err(|damage| flaw(trailer.footer_offset, damage))?;

    let mut check = FrameCheck::new(&header, keys);
    while check.end() < trailer.footer_offset {
        let frame = check.next(&read(check.end(), FRAME_HEADER_BYTES)?, trailer.footer_offset)?;
        let bytes = read(check.end(), FRAME_HEADER_BYTES.saturating_add(frame.stored_len as usize))?;
        let start = check.end();
        let raw = check.frame(&bytes)?;
        each(&frame, &raw).map_err(|damage| flaw(start, damage))?;
    }
    if check.end() != trailer.footer_offset
        || check.frames().last().is_some_and(|last| !last.header.ends_on_commit)
    {
        return Err(flaw(check.end(), Damage::Malformed("the end of the frames")));
    }
    match check.compare(&trailer, &footer) {
        Ok(()) => Ok(Checked { header, trailer, footer }),
        Err(what) => Err(flaw(trailer.footer_offset, Damage::Malformed(what))),
    }
}
