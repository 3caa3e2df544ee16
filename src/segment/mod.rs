//! Our bytes on disk: the segment, one run of the log. `docs/FORMAT.md` tells it byte by byte.
//!
//! ```text
//! open    0000…B0.open              Header, Frame, Frame, … (cut anywhere by a crash)
//! sealed  0000…B0-0000…C8.seg       Header, Frame, …, Frame, Footer, Trailer
//!                                                 │ relations, frame index, commits
//!                 Frame = FrameHeader, records    │ record = varint length, pgoutput message verbatim;
//!                                                 │ as they are, compressed, or transposed into columns
//! ```
//!
//! A segment holds the whole transactions whose commits end in `(after, through]`, and describes every relation that
//! they touch. Every byte lies under a CRC32C, and a running hash of the messages ([`Chain`]) links segment to segment.
//!
//! Beside the segments a base has files of its own ([`PartHeader`]). Where the archive has a key, payloads and footer are encrypted, and all that stands beside them is authenticated.
//!
//! Pure: bytes in, bytes out. No file, no clock, no logging, and no panic on any input.

mod chain;
mod check;
mod codec;
mod damage;
mod encoder;
mod footer;
mod frame;
mod header;
mod key;
mod ledger;
mod name;
mod part;
mod peek;
mod pin;
mod prefix;
mod record;
mod take;
mod trailer;
mod transpose;

pub use chain::Chain;
pub use check::{Checked, Flaw, FrameCheck, check_ends, check_sealed};
pub use codec::Codec;
pub use damage::Damage;
pub use encoder::{Cut, Encoder};
pub use footer::{Footer, FrameEntry};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, FrameScratch, RAW_BYTES_MAX};
pub use header::{HEADER_BYTES, Header};
pub use key::{BOX_BYTES, Cipher, Encryption, Key, KeyId, Keyring, NoKey, NonceStart, Opener, wipe};
pub use ledger::{Commit, FrameContent, Ledger, RelationEntry, RelationVersion, Totals};
pub use name::SegmentName;
pub use part::{BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, PartDecoder, PartEncoder, PartHeader};
pub use peek::{Peek, RelationPeek, peek, relation_name, relation_type_oids, truncated_oids};
pub use pin::{PIN_PREFIX, PinEntry, is_pin_name};
pub use prefix::{Prefix, valid_prefix};
pub use record::{MESSAGE_BYTES_MAX, Records, push_record};
pub use trailer::{TRAILER_BYTES, Trailer};
pub use transpose::{from_transposed, transposed};
