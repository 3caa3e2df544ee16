//! A file of a base: part of a table's rows as COPY prints them, or the schema as pg_dump wrote it. `docs/FORMAT.md` tells it byte by byte.
//!
//! ```text
//! PartHeader, block, block, …, end          block = raw_len | stored_len | codec | CRC32C | bytes, compressed and perhaps in a box
//! ```
//!
//! Blocks have their number in what they are bound to, and the end says how many bytes there are, so none can be missing or elsewhere.

use super::codec::Squeeze;
use super::key::Cipher;
use super::take::Take;
use super::{BOX_BYTES, Codec, Damage, Encryption, HEADER_BYTES, Keyring, Opener};

const MAGIC: [u8; 8] = *b"PGSLBASE";
const VERSION: u16 = 1;
const ENCRYPTED: u16 = 1;

/// What stands in front of the bytes of a block.
pub const BLOCK_HEADER_BYTES: usize = 16;
/// Of the bytes in a block.
pub const BLOCK_BYTES_MAX: usize = 4 << 20;

/// What a file holds: which part of which table of the source, or part 0 of table 0, the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    pub archive_id: [u8; 16],
    /// Random; of the base.
    pub base_id: [u8; 16],
    pub table: u32,
    pub number: u32,
    pub encrypted: bool,
}

impl PartHeader {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let flags = if self.encrypted { ENCRYPTED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.table.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.base_id);
        out.extend_from_slice(&self.archive_id);
        out.resize(HEADER_BYTES - 4, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }
}

/// Makes the bytes of one file.
pub struct PartEncoder {
    header: [u8; HEADER_BYTES],
    cipher: Option<Cipher>,
    squeeze: Squeeze,
    blocks: u64,
    raw_bytes: u64,
}

impl PartEncoder {
    /// Encrypted or not, whatever the header says of that.
    pub fn new(header: PartHeader, zstd_level: i32, encryption: Option<Encryption>) -> PartEncoder {
        let header = PartHeader { encrypted: encryption.is_some(), ..header }.encode();
        PartEncoder {
            cipher: encryption.map(|encryption| encryption.cipher_of(&header)),
            header,
            squeeze: Squeeze::new(zstd_level),
            blocks: 0,
            raw_bytes: 0,
        }
    }

    /// What the file begins with.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }

    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Appends a block of at most [`BLOCK_BYTES_MAX`] bytes.
    pub fn block(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        self.raw_bytes = self.raw_bytes.saturating_add(raw.len() as u64);
        let (codec, stored) = self.squeeze.encode(raw);
        put(raw.len() as u32, codec, stored, &mut self.blocks, self.cipher.as_ref(), out);
    }

    /// Appends what the file ends with.
    pub fn end(mut self, out: &mut Vec<u8>) {
        let total = self.raw_bytes.to_le_bytes();
        put(0, Codec::Stored, &total, &mut self.blocks, self.cipher.as_ref(), out);
    }
}

fn put(
    raw_len: u32,
    codec: Codec,
    stored: &[u8],
    blocks: &mut u64,
    cipher: Option<&Cipher>,
    out: &mut Vec<u8>,
) {
    let sealed;
    let stored = match cipher {
        Some(cipher) => {
            sealed = cipher.seal(stored, &about(*blocks, raw_len, codec));
            &sealed
        }
        None => stored,
    };
    *blocks = blocks.wrapping_add(1);
    let start = out.len();
    out.extend_from_slice(&raw_len.to_le_bytes());
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    out.extend_from_slice(&[codec.number(), 0, 0, 0]);
    let head = out.get(start..).map_or(0, crc32c::crc32c);
    out.extend_from_slice(&crc32c::crc32c_append(head, stored).to_le_bytes());
    out.extend_from_slice(stored);
}

/// What a box is bound to besides its file.
fn about(block: u64, raw_len: u32, codec: Codec) -> Vec<u8> {
    let mut about = block.to_le_bytes().to_vec();
    about.extend_from_slice(&raw_len.to_le_bytes());
    about.push(codec.number());
    about
}

/// Reads one file, front to back.
pub struct PartDecoder {
    opener: Opener,
    blocks: u64,
    raw_bytes: u64,
    decompressor: zstd::bulk::Decompressor<'static>,
}

/// What stands in front of a block. Only limits were checked: the checksum covers the block too.
pub struct BlockHeader {
    bytes: [u8; BLOCK_HEADER_BYTES],
    raw_len: u32,
    stored_len: u32,
    codec: Codec,
}

impl BlockHeader {
    pub fn decode(bytes: [u8; BLOCK_HEADER_BYTES]) -> Result<BlockHeader, Damage> {
        let mut take = Take::new(&bytes, "a block's header");
        let (raw_len, stored_len) = (take.u32()?, take.u32()?);
        let codec = Codec::plain(take.u8()?, "a block's header")?;
        let longest = BLOCK_BYTES_MAX.max(8) + BOX_BYTES;
        if raw_len as usize > BLOCK_BYTES_MAX || stored_len as usize > longest {
            return Err(take.malformed());
        }
        Ok(BlockHeader { bytes, raw_len, stored_len, codec })
    }

    /// Bytes that follow.
    pub fn stored_len(&self) -> usize {
        self.stored_len as usize
    }
}

impl PartDecoder {
    /// Wants the file to be the one that it is taken for.
    pub fn new(bytes: &[u8], expected: PartHeader, keys: &Keyring) -> Result<PartDecoder, Damage> {
        let mut take = Take::new(bytes, "the header of a base's file");
        let given: [u8; HEADER_BYTES] = take.array()?;
        let mut fields = Take::new(&given, "the header of a base's file");
        if fields.array()? != MAGIC {
            return Err(fields.malformed());
        }
        let (version, flags) = (fields.u16()?, fields.u16()?);
        if version != VERSION || flags & !ENCRYPTED != 0 {
            return Err(Damage::Version(version));
        }
        let encrypted = flags & ENCRYPTED != 0;
        let header = PartHeader { encrypted, ..expected }.encode();
        if given != header {
            return Err(Damage::Changed("the header of a base's file"));
        }
        let opener = Opener::of(encrypted.then_some(header), keys);
        let decompressor = zstd::bulk::Decompressor::default();
        Ok(PartDecoder { opener, blocks: 0, raw_bytes: 0, decompressor })
    }

    /// The bytes in a block; none at the end.
    pub fn block(&mut self, header: &BlockHeader, stored: &[u8]) -> Result<Option<Vec<u8>>, Damage> {
        let mut take = Take::new(&header.bytes, "a block's header");
        let covered = take.bytes(BLOCK_HEADER_BYTES - 4)?;
        if crc32c::crc32c_append(crc32c::crc32c(covered), stored) != take.u32()? {
            return Err(Damage::Checksum("a block of a base's file"));
        }
        let what = "a block of a base's file";
        let about = || about(self.blocks, header.raw_len, header.codec);
        let opened = self.opener.open(stored, about, what)?;
        self.blocks = self.blocks.wrapping_add(1);
        if header.raw_len == 0 {
            let mut end = Take::new(&opened, "the end of a base's file");
            let total = u64::from_le_bytes(end.array()?);
            return if total == self.raw_bytes { Ok(None) } else { Err(end.malformed()) };
        }
        let raw = header.codec.decode(&opened, header.raw_len as usize, &mut self.decompressor, what)?;
        self.raw_bytes = self.raw_bytes.saturating_add(raw.len() as u64);
        Ok(Some(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::*;

    const HEADER: PartHeader =
        PartHeader { archive_id: [1; 16], base_id: [2; 16], table: 7, number: 3, encrypted: false };

    fn encoded(blocks: &[&[u8]], keys: &Keyring) -> Vec<u8> {
        let mut encoder = PartEncoder::new(HEADER, 3, Encryption::new(keys, [5; 12]));
        let mut out = encoder.header().to_vec();
        for block in blocks {
            encoder.block(block, &mut out);
        }
        encoder.end(&mut out);
        out
    }

    fn decoded(bytes: &[u8], keys: &Keyring) -> Result<Vec<u8>, Damage> {
        let mut take = Take::new(bytes, "the file");
        let mut decoder = PartDecoder::new(take.bytes(HEADER_BYTES)?, HEADER, keys)?;
        let mut all = Vec::new();
        loop {
            let header = BlockHeader::decode(take.array()?)?;
            let stored = take.bytes(header.stored_len())?;
            match decoder.block(&header, stored)? {
                Some(raw) => all.extend(raw),
                None if take.is_empty() => return Ok(all),
                None => return Err(take.malformed()),
            }
        }
    }

    fn keyrings() -> [Keyring; 2] {
        [Keyring::default(), Keyring::new(vec![Key::new([9; 32])])]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = vec![b'x'; BLOCK_BYTES_MAX];
        for keys in keyrings() {
            for blocks in [&[][..], &[&b"one"[..]], &[b"1\t\\N\n", &long, b"2\ta\n"]] {
                assert_eq!(decoded(&encoded(blocks, &keys), &keys).unwrap(), blocks.concat());
            }
        }
    }

    #[test]
    fn no_byte_can_be_changed_or_be_missing() {
        for keys in keyrings() {
            let whole = encoded(&[b"one\t1\n", b"two\t2\n"], &keys);
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 0x10;
                assert!(decoded(&changed, &keys).is_err(), "{at}");
                assert!(decoded(&whole[..at], &keys).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn a_block_that_is_missing_or_elsewhere_is_noticed() {
        for keys in keyrings() {
            let one = encoded(&[b"one\n"], &keys).len();
            let end = encoded(&[], &keys).len();
            let whole = encoded(&[b"one\n", b"two\n"], &keys);
            let block = one - end;
            let without = [&whole[..HEADER_BYTES], &whole[HEADER_BYTES + block..]].concat();
            assert!(decoded(&without, &keys).is_err());
            let swapped = [
                &whole[..HEADER_BYTES],
                &whole[HEADER_BYTES + block..HEADER_BYTES + 2 * block],
                &whole[HEADER_BYTES..HEADER_BYTES + block],
                &whole[HEADER_BYTES + 2 * block..],
            ]
            .concat();
            // Without a key only the file's hash in the base's manifest tells.
            assert_eq!(decoded(&swapped, &keys).is_ok(), keys.is_empty());
        }
    }

    #[test]
    fn a_file_is_only_taken_for_what_it_is() {
        let keys = Keyring::default();
        let bytes = encoded(&[b"one\n"], &keys);
        for other in [
            PartHeader { table: 8, ..HEADER },
            PartHeader { number: 4, ..HEADER },
            PartHeader { base_id: [3; 16], ..HEADER },
            PartHeader { archive_id: [3; 16], ..HEADER },
        ] {
            assert!(PartDecoder::new(&bytes, other, &keys).is_err());
        }
        let [_, keys] = keyrings();
        let bytes = encoded(&[b"one\n"], &keys);
        assert!(matches!(decoded(&bytes, &Keyring::default()), Err(Damage::Locked { .. })));
    }
}
