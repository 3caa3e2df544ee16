//! A segment: parts as they come, and a whole file whose checksums are mended, since nothing gets past them by chance.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_fuzz::model::Position;
use pgsluice_fuzz::segment::{
    Damage, FRAME_HEADER_BYTES, Flaw, Footer, FrameHeader, HEADER_BYTES, Header, Key, Keyring, Opener, Records,
    SegmentName, TRAILER_BYTES, Totals, Trailer, check_sealed, valid_prefix,
};

fuzz_target!(|bytes: &[u8]| {
    let _ = (Header::decode(bytes), Trailer::decode(bytes, bytes.len() as u64), FrameHeader::decode(bytes));
    let keys = Keyring::new(vec![Key::new([1; 32])]);
    for encrypted in [false, true] {
        let opener = Opener::new(&header(encrypted), &keys);
        let _ = Footer::decode(bytes, &trailer(bytes), Position(0), &opener);
    }
    let _ = Records::new(bytes).map_while(Result::ok).count();
    if let Some(name) = std::str::from_utf8(bytes).ok().and_then(SegmentName::parse) {
        assert_eq!(name.to_string().as_bytes(), bytes, "a name is written as it is read");
    }
    let file = mended(bytes);
    let _ = check_sealed::<Flaw>(file.len() as u64, &keys, reader(&file, flaw), |_, raw| {
        Records::new(raw).try_for_each(|record| record.map(drop))
    });
    let secrets = (&keys, [0; 12]);
    let prefix = valid_prefix::<Damage>(file.len() as u64, 1, secrets, reader(&file, |damage| damage));
    let Ok(Some(prefix)) = prefix else {
        return;
    };
    let kept = prefix.encoder.end();
    assert_eq!(kept + prefix.dropped_bytes, file.len() as u64);
    let again = valid_prefix::<Damage>(kept, 1, secrets, reader(&file, |damage| damage));
    assert!(
        matches!(again, Ok(Some(again)) if again.dropped_bytes == 0 && again.through() == prefix.through())
    );
});

fn header(encrypted: bool) -> Header {
    Header {
        archive_id: [0; 16],
        system_identifier: 1,
        timeline: 1,
        after: Position(0),
        chain: [0; 32],
        encrypted,
    }
}

/// One that speaks of these bytes.
fn trailer(footer: &[u8]) -> Trailer {
    Trailer {
        footer_offset: HEADER_BYTES as u64,
        footer_len: footer.len() as u64,
        footer_checksum: crc32c::crc32c(footer),
        through: Position(0),
        totals: Totals::default(),
        chain: [0; 32],
    }
}

fn flaw(damage: Damage) -> Flaw {
    Flaw { offset: 0, damage }
}

fn reader<E>(file: &[u8], error: impl Fn(Damage) -> E) -> impl FnMut(u64, usize) -> Result<Vec<u8>, E> {
    move |offset, length| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = file.get(start..).and_then(|rest| rest.get(..length));
        part.map(<[u8]>::to_vec).ok_or_else(|| error(Damage::Short("the file")))
    }
}

/// The bytes as a segment: magic numbers and checksums (offsets: docs/FORMAT.md) are put right, all else is left.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    let end = file.len();
    if end < HEADER_BYTES {
        return file;
    }
    file[..10].copy_from_slice(b"PGSLUICE\x01\0");
    file[10] &= 1;
    file[11] = 0;
    seal(&mut file, 0, HEADER_BYTES);
    let mut at = HEADER_BYTES;
    while at + FRAME_HEADER_BYTES <= end && &file[at..at + 4] != b"FOOT" {
        file[at..at + 4].copy_from_slice(b"FRAM");
        // Lengths that the file can hold, so that there is a frame behind it.
        file[at + 10..at + 12].fill(0);
        file[at + 14..at + 16].fill(0);
        let stored = usize::from(u16::from_le_bytes([file[at + 12], file[at + 13]]));
        let Some(next) = at.checked_add(FRAME_HEADER_BYTES + stored).filter(|next| *next <= end) else {
            break;
        };
        let checksum = crc32c::crc32c(&file[at..at + 40]);
        let checksum = crc32c::crc32c_append(checksum, &file[at + FRAME_HEADER_BYTES..next]);
        file[at + 40..at + 44].copy_from_slice(&checksum.to_le_bytes());
        at = next;
    }
    if let Some(trailer) = end.checked_sub(TRAILER_BYTES).filter(|trailer| *trailer >= at) {
        let footer = crc32c::crc32c(&file[at..trailer]);
        file[trailer..trailer + 8].copy_from_slice(b"SEALED\r\n");
        file[trailer + 8..trailer + 16].copy_from_slice(&(at as u64).to_le_bytes());
        file[trailer + 16..trailer + 24].copy_from_slice(&((trailer - at) as u64).to_le_bytes());
        file[trailer + 24..trailer + 28].copy_from_slice(&footer.to_le_bytes());
        seal(&mut file, trailer, TRAILER_BYTES);
    }
    file
}

/// Writes the checksum into the last four bytes of a part.
fn seal(file: &mut [u8], start: usize, length: usize) {
    let checksum = crc32c::crc32c(&file[start..start + length - 4]);
    file[start + length - 4..start + length].copy_from_slice(&checksum.to_le_bytes());
}
