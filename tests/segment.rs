//! The segment's bytes, without any file: round trips, cuts, flipped bits, and the golden file that is read for ever.
use bytes::Bytes;
use pgsluice::model::{Position, Timestamp, Xid};
use pgsluice::segment::{
    BOX_BYTES, Checked, Codec, Commit, Cut, Damage, Encoder, Encryption, FRAME_HEADER_BYTES, Flaw,
    FrameEntry, FrameHeader, FrameScratch, HEADER_BYTES, Header, Key, Keyring, Opener, Records, SegmentName,
    TRAILER_BYTES, check_sealed, push_record, valid_prefix,
};
use proptest::prelude::*;

use crate::log::messages::*;

fn header() -> Header {
    Header {
        archive_id: [7; 16],
        system_identifier: 7_000_000_000_000_000_001,
        timeline: 3,
        after: START,
        chain: [5; 32],
        encrypted: false,
    }
}

fn check(bytes: &[u8]) -> Result<(Checked, Vec<Vec<u8>>), Flaw> {
    check_with(bytes, &Keyring::default())
}

fn check_with(bytes: &[u8], keys: &Keyring) -> Result<(Checked, Vec<Vec<u8>>), Flaw> {
    let mut records = Vec::new();
    let checked = check_sealed(
        bytes.len() as u64,
        keys,
        |offset, length| {
            let slice = bytes.get(offset as usize..).and_then(|rest| rest.get(..length));
            slice.map(<[u8]>::to_vec).ok_or(Flaw { offset, damage: Damage::Short("the segment") })
        },
        |_, raw| {
            for message in Records::new(raw) {
                records.push(message?.to_vec());
            }
            Ok(())
        },
    )?;
    Ok((checked, records))
}

/// A segment in the making, frame by frame: (bytes so far, where the log stands if the frame ends on a commit).
struct Written {
    encoder: Encoder,
    bytes: Vec<u8>,
    /// The lengths at which a frame ends between transactions, and the messages up to there.
    whole: Vec<(usize, Position, Vec<Vec<u8>>)>,
}

/// `plan` says, message by message, whether a frame is cut behind it.
fn write(transactions: &[Vec<Vec<u8>>], plan: &[bool], level: i32) -> Written {
    write_by(Encoder::new(header(), level, None), transactions, plan)
}

fn write_by(mut encoder: Encoder, transactions: &[Vec<Vec<u8>>], plan: &[bool]) -> Written {
    let mut bytes = encoder.header().encode().to_vec();
    let mut whole = vec![(HEADER_BYTES, START, Vec::new())];
    let (mut raw, mut through, mut said, mut number) = (Vec::new(), START, Vec::new(), 0);
    for (index, transaction) in transactions.iter().enumerate() {
        let at_start = raw.is_empty();
        for (place, message) in transaction.iter().enumerate() {
            push_record(&mut raw, message);
            said.push(message.clone());
            number += 1;
            let ends = place + 1 == transaction.len();
            // A part of a transaction stands in frames of its own.
            let cut = plan.get(number % plan.len().max(1)).copied().unwrap_or(false) && (ends || at_start);
            let last = ends && index + 1 == transactions.len();
            if ends {
                through = end(index as u64 + 1);
            }
            if cut || last || (ends && !at_start && plan.first() == Some(&true)) {
                let cut = Cut { raw: Bytes::from(std::mem::take(&mut raw)), ends_on_commit: ends, through };
                encoder.frame(&cut, &mut bytes).unwrap();
                if ends {
                    whole.push((bytes.len(), through, said.clone()));
                }
            }
        }
    }
    Written { encoder, bytes, whole }
}

fn some_transactions(values: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut all = transactions(values.len() as u64);
    for (transaction, value) in all.iter_mut().zip(values) {
        let at = transaction.len() - 1;
        transaction.insert(at, insert(100, 1, value));
        if value.len() % 3 == 0 {
            transaction.insert(at, truncate(&[100, 200]));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sealed_segments_round_trip_byte_for_byte(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..12),
        plan in prop::collection::vec(any::<bool>(), 1..9),
        level in 1..4,
    ) {
        let transactions = some_transactions(&values);
        let Written { encoder, mut bytes, .. } = write(&transactions, &plan, level);
        let trailer = encoder.seal(&mut bytes);
        let (checked, records) = check(&bytes).unwrap();
        prop_assert_eq!(checked.header, header());
        prop_assert_eq!(&checked.trailer, &trailer);
        prop_assert_eq!(checked.footer, encoder.footer());
        prop_assert_eq!(&records, &transactions.concat());
        prop_assert_eq!(trailer.totals.transactions, values.len() as u64);
        prop_assert_eq!(trailer.totals.raw_bytes as usize, records.iter().map(|r| r.len() + 1 + usize::from(r.len() > 127)).sum::<usize>());
        // However it is cut and compressed, the chain is the same.
        let other = write(&transactions, &[false], 1);
        prop_assert_eq!(other.encoder.ledger().chain(), trailer.chain);
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_the_longest_valid_prefix(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
        plan in prop::collection::vec(any::<bool>(), 1..6),
        garbage in prop::collection::vec(any::<u8>(), 0..80),
        with_footer in any::<bool>(),
    ) {
        let transactions = some_transactions(&values);
        let Written { encoder, mut bytes, whole } = write(&transactions, &plan, 1);
        if with_footer {
            encoder.seal(&mut bytes);
        }
        let mut sealed = std::collections::HashSet::new();
        for length in 0..=bytes.len() {
            let mut left = bytes[..length].to_vec();
            // What was torn off does not come back by chance.
            let mut garbage = garbage.clone();
            if let (Some(first), Some(torn)) = (garbage.first_mut(), bytes.get(length)) {
                *first = !*torn;
            }
            left.extend_from_slice(&garbage);
            let prefix = valid_prefix(left.len() as u64, 1, (&Keyring::default(), [0; 12]), |offset, length| {
                Ok::<_, Damage>(left[offset as usize..offset as usize + length].to_vec())
            })
            .unwrap();
            let Some(prefix) = prefix else {
                prop_assert!(length < HEADER_BYTES);
                continue;
            };
            let (whole_length, through, said) = whole.iter().rev().find(|(end, _, _)| *end <= length).unwrap();
            prop_assert_eq!(prefix.through(), *through);
            prop_assert_eq!(prefix.encoder.end(), *whole_length as u64);
            prop_assert_eq!(prefix.dropped_bytes, (left.len() - whole_length) as u64);
            // It can be gone on with: sealed, it holds exactly those messages.
            left.truncate(*whole_length);
            if sealed.insert(*whole_length) {
                prefix.encoder.seal(&mut left);
                prop_assert_eq!(&check(&left).unwrap().1, said);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), valid_start in any::<bool>()) {
        let mut all = if valid_start { header().encode().to_vec() } else { Vec::new() };
        all.extend(bytes);
        prop_assert!(check(&all).is_err());
        let _ = valid_prefix(all.len() as u64, 1, (&Keyring::default(), [0; 12]), |offset, length| {
            Ok::<_, Damage>(all[offset as usize..offset as usize + length].to_vec())
        });
    }
}

#[test]
fn any_flipped_bit_of_a_sealed_segment_is_an_error() {
    let values: Vec<_> = (0..4u8).map(|value| vec![value; 40]).collect();
    let Written { encoder, mut bytes, .. } = write(&some_transactions(&values), &[true, false], 1);
    encoder.seal(&mut bytes);
    check(&bytes).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..bytes.len() {
        assert!(check(&bytes[..length]).is_err(), "{length}");
    }
}

/// Enough of the same kind that transposing pays.
fn transposed() -> Written {
    let values: Vec<_> = (0..40u8).map(|value| vec![value; 10]).collect();
    let written = write_by(Encoder::transposing(header(), 1, None), &some_transactions(&values), &[false]);
    assert_eq!(written.encoder.frames()[0].header.codec, Codec::Transposed);
    written
}

#[test]
fn any_flipped_bit_of_a_transposed_frame_is_an_error() {
    let Written { encoder, mut bytes, whole } = transposed();
    encoder.seal(&mut bytes);
    let (_, said) = check(&bytes).unwrap();
    assert_eq!(said, whole.last().unwrap().2);
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..bytes.len() {
        let prefix = valid_prefix(length as u64, 1, (&Keyring::default(), [0; 12]), |offset, length| {
            Ok::<_, Damage>(bytes[offset as usize..offset as usize + length].to_vec())
        });
        let kept = prefix.unwrap().map_or(START, |prefix| prefix.through());
        assert_eq!(kept, if length < whole[1].0 { START } else { end(40) }, "{length}");
    }
}

#[test]
fn an_unknown_codec_is_named() {
    let mut bytes = transposed().bytes;
    bytes[HEADER_BYTES + 4] = 9;
    let damage = FrameHeader::decode(&bytes[HEADER_BYTES..]).unwrap_err();
    assert!(damage.to_string().contains("codec 9, which this program does not read"), "{damage}");
}

#[test]
fn the_golden_file_of_transposed_frames_is_read_for_ever() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-transposed.seg");
    let Written { encoder, mut bytes, whole } = transposed();
    encoder.seal(&mut bytes);
    if std::env::var_os("PGSLUICE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let (checked, records) = check(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(checked.footer.frames[0].header.codec, Codec::Transposed);
    assert_eq!(records, whole.last().unwrap().2);
}

#[test]
fn the_golden_file_with_pins_is_read_for_ever() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-pins.seg");
    let mut transactions = transactions(3);
    for (number, name) in [(0, "before-release_7"), (2, "a"), (2, "b"), (2, "Not A Name")] {
        transactions[number].insert(1, pin(name));
    }
    let Written { encoder, mut bytes, .. } = write(&transactions, &[true, false, false], 1);
    encoder.seal(&mut bytes);
    if std::env::var_os("PGSLUICE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let (checked, records) = check(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(records, transactions.concat());
    let pins: Vec<_> = checked.footer.pins.iter().map(|pin| (pin.name.as_str(), pin.end)).collect();
    assert_eq!(pins, [("before-release_7", end(1)), ("b", end(3)), ("a", end(3))]);
}

/// Lengths that were made up are refused before anything is allocated for them.
#[test]
fn made_up_lengths_are_refused() {
    let Written { encoder, bytes, .. } = write(&transactions(1), &[true], 1);
    for raw_len in [u32::MAX, (1 << 30) + (17 << 20), 1] {
        let mut bytes = bytes.clone();
        bytes[HEADER_BYTES + 8..HEADER_BYTES + 12].copy_from_slice(&raw_len.to_le_bytes());
        let prefix = valid_prefix(bytes.len() as u64, 1, (&Keyring::default(), [0; 12]), |offset, length| {
            Ok::<_, Damage>(bytes[offset as usize..offset as usize + length].to_vec())
        });
        assert_eq!(prefix.unwrap().unwrap().through(), START);
    }
    assert_eq!(encoder.ledger().totals().transactions, 1);
}

#[test]
fn the_commit_index_costs_at_most_four_bytes_a_transaction() {
    let mut encoder = Encoder::new(header(), 1, None);
    let (mut random, mut at, mut time) = (88_172_645_463_325_252u64, START.0, 800_000_000_000_000i64);
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut out, mut raw) = (Vec::new(), Vec::new());
    // As pgbench gives them: 500 to 1,000 bytes of WAL each, a few hundred microseconds apart, eight clients.
    for xid in 0..50_000u32 {
        at += 0x200 + next(64) * 8;
        time += 60 + next(200) as i64;
        let mut begin = begin(Position(at), 1_000 + xid + next(8) as u32);
        begin[9..17].copy_from_slice(&time.to_be_bytes());
        let mut commit = commit(Position(at));
        commit[18..].copy_from_slice(&time.to_be_bytes());
        push_record(&mut raw, &begin);
        push_record(&mut raw, &commit);
    }
    let cut = Cut { raw: Bytes::from(raw), ends_on_commit: true, through: Position(at) };
    encoder.frame(&cut, &mut out).unwrap();
    out.clear();
    encoder.seal(&mut out);
    println!("{:.2} bytes a transaction", out.len() as f64 / 50_000.0);
    assert!(out.len() < 4 * 50_000, "{}", out.len());
}

/// What the golden file of format version 1 was made from.
fn golden() -> Written {
    let mut transactions = transactions(3);
    transactions[1].insert(3, relation(100, "renamed", 25));
    transactions[2].insert(4, truncate(&[100, 200]));
    write(&transactions, &[true, false, false], 1)
}

#[test]
fn the_golden_file_is_read_for_ever() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.seg");
    let Written { encoder, mut bytes, .. } = golden();
    let trailer = encoder.seal(&mut bytes);
    if std::env::var_os("PGSLUICE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let stored = std::fs::read(&path).unwrap();
    let (checked, records) = check(&stored).unwrap();
    assert_eq!(checked.header, header());
    assert_eq!(checked.header.encode(), stored[..HEADER_BYTES]);
    assert_eq!(checked.trailer.through, Position(0x1300));
    assert_eq!(checked.trailer.chain, trailer.chain);
    assert_eq!(checked.trailer.totals, trailer.totals);
    assert_eq!((checked.trailer.totals.transactions, checked.trailer.totals.changes), (3, 10));
    let commit = |number: u64| Commit {
        end: end(number),
        time: Timestamp(time(end(number))),
        xid: Xid(end(number).0 as u32),
    };
    assert_eq!(checked.footer.commits, [commit(1), commit(2), commit(3)]);
    let relations: Vec<_> = checked
        .footer
        .relations
        .iter()
        .map(|relation| {
            (
                relation.oid,
                relation.name.as_slice(),
                relation.inserts,
                relation.truncates,
                relation.versions.len(),
            )
        })
        .collect();
    assert_eq!(relations, [(100, &b"renamed"[..], 6, 1, 2), (200, &b"two"[..], 3, 1, 1)]);
    assert_eq!(
        SegmentName::sealed(START, checked.trailer.through).to_string(),
        "0000000000001000-0000000000001300.seg"
    );
    let (_, written) = check(&bytes).unwrap();
    assert_eq!(records, written);
    // Frame by frame the same records; how well zstd compresses them may change.
    let mut scratch = FrameScratch::default();
    for (frame, other) in checked.footer.frames.iter().zip(encoder.frames()) {
        let mut records = |bytes: &[u8], frame: &FrameEntry| {
            let opener = Opener::new(&header(), &Keyring::default());
            let at = frame.offset;
            frame.header.payload(&bytes[at as usize..], at, &opener, &mut scratch).unwrap()
        };
        assert_eq!(records(&stored, frame), records(&bytes, other));
        assert_eq!((frame.header.through, frame.header.first), (other.header.through, other.header.first));
    }
    assert_eq!(checked.footer.frames.len(), encoder.frames().len());
}

fn keys(numbers: &[u8]) -> Keyring {
    Keyring::new(numbers.iter().map(|number| Key::new([*number; 32])).collect())
}

/// With frames that end between transactions, one that does not, and one that is transposed.
fn encrypted(with: &Keyring) -> Written {
    let mut transactions = some_transactions(&vec![vec![b'v'; 10]; 12]);
    transactions[1].insert(3, relation(100, "renamed", 25));
    let encoder = Encoder::transposing(header(), 1, Encryption::new(with, [9; 12]));
    write_by(encoder, &transactions, &[true, false, false])
}

fn sealed(written: Written) -> Vec<u8> {
    let Written { encoder, mut bytes, .. } = written;
    encoder.seal(&mut bytes);
    bytes
}

#[test]
fn the_golden_file_of_an_encrypted_segment_is_read_for_ever() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-encrypted.seg");
    let written = encrypted(&keys(&[1]));
    let said = written.whole.last().unwrap().2.clone();
    let bytes = sealed(written);
    if std::env::var_os("PGSLUICE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let (checked, records) = check_with(&std::fs::read(&path).unwrap(), &keys(&[2, 1])).unwrap();
    assert!(checked.header.encrypted);
    assert_eq!(checked.header, Header { encrypted: true, ..header() });
    assert_eq!(records, said);
    assert!(checked.footer.frames.iter().any(|frame| !frame.header.ends_on_commit));
}

#[test]
fn an_encrypted_segment_wants_its_key() {
    let bytes = sealed(encrypted(&keys(&[1])));
    let plain = sealed(encrypted(&keys(&[])));
    let overhead = bytes.len() - plain.len();
    let frames = check_with(&bytes, &keys(&[1])).unwrap().0.footer.frames.len();
    assert!(overhead.abs_diff((frames + 1) * BOX_BYTES) < 20, "{overhead} for {frames} frames");
    // Neither names nor values.
    for said in [&b"renamed"[..], b"vvvvvvvvvv", b"public"] {
        assert!(!bytes.windows(said.len()).any(|window| window == said));
    }
    let [one, two, three] = [1, 2, 3].map(|number| keys(&[number]).ids().next().unwrap());
    let refused = |given: &[u8]| check_with(&bytes, &keys(given)).unwrap_err().damage;
    assert_eq!(refused(&[]), Damage::Locked { key: Some(one), given: vec![] });
    assert_eq!(refused(&[2, 3]), Damage::Locked { key: Some(one), given: vec![two, three] });
    let text = refused(&[2, 3]).to_string();
    assert_eq!(text, format!("it is encrypted with key {one}, and the keys given are {two}, {three}"));
}

/// Checksums are made right again, so that nothing but the encryption can object.
fn correct(bytes: &mut [u8], frames: &[FrameEntry]) {
    let put = |bytes: &mut [u8], at: usize, checksum: u32| {
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes())
    };
    let header = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    put(bytes, HEADER_BYTES - 4, header);
    for frame in frames {
        let start = frame.offset as usize;
        let payload = start + FRAME_HEADER_BYTES;
        let checksum = crc32c::crc32c(&bytes[start..payload - 4]);
        let stored_len = u32::from_le_bytes(bytes[start + 12..start + 16].try_into().unwrap());
        // What it says that it holds, unless that is more than there is.
        if let Some(stored) = bytes.get(payload..payload + stored_len as usize) {
            let checksum = crc32c::crc32c_append(checksum, stored);
            put(bytes, payload - 4, checksum);
        }
    }
    let trailer = bytes.len() - TRAILER_BYTES;
    let last = frames.last().unwrap();
    let footer = (last.offset + last.header.len()) as usize;
    let checksum = crc32c::crc32c(&bytes[footer..trailer]);
    put(bytes, trailer + 24, checksum);
    let checksum = crc32c::crc32c(&bytes[trailer..trailer + TRAILER_BYTES - 4]);
    put(bytes, trailer + TRAILER_BYTES - 4, checksum);
}

#[test]
fn what_was_changed_with_its_checksum_is_refused_by_the_encryption() {
    let keys = keys(&[1]);
    let mut bytes = sealed(encrypted(&keys));
    let frames = check_with(&bytes, &keys).unwrap().0.footer.frames;
    let whole = bytes.clone();
    correct(&mut bytes, &frames);
    assert_eq!(bytes, whole);
    let mut changed = 0;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(check_with(&bytes, &keys).is_err(), "bit {bit}");
        correct(&mut bytes, &frames);
        // A checksum that was changed is right again.
        if bytes != whole {
            changed += 1;
            let damage = check_with(&bytes, &keys).unwrap_err().damage;
            assert!(!matches!(damage, Damage::Checksum(_)), "bit {bit}: {damage}");
        }
        bytes.copy_from_slice(&whole);
    }
    assert_eq!(changed, (bytes.len() - 4 * (frames.len() + 3)) * 8);
}

#[test]
fn frames_of_an_encrypted_segment_can_not_change_places() {
    let keys = keys(&[1]);
    let bytes = sealed(encrypted(&keys));
    let (checked, _) = check_with(&bytes, &keys).unwrap();
    let (opener, mut scratch) = (Opener::new(&checked.header, &keys), FrameScratch::default());
    let frame = checked.footer.frames[0];
    let at = frame.offset as usize;
    let mut payload =
        |offset: u64, opener: &Opener| frame.header.payload(&bytes[at..], offset, opener, &mut scratch);
    assert!(payload(frame.offset, &opener).is_ok());
    let moved = Damage::Changed("a frame's payload");
    assert_eq!(payload(frame.offset + 1, &opener), Err(moved.clone()));
    // Nor be taken into another segment, though it be encrypted with the same key.
    let other = Opener::new(&Header { timeline: 4, ..checked.header.clone() }, &keys);
    assert_eq!(payload(frame.offset, &other), Err(moved));
    // A header that says that nothing is encrypted makes no sense of it.
    let plain = Opener::new(&Header { encrypted: false, ..checked.header }, &keys);
    assert!(payload(frame.offset, &plain).is_err());
}

#[test]
fn a_recovered_segment_is_encrypted_as_it_was_begun() {
    let Written { bytes, whole, .. } = encrypted(&keys(&[1]));
    let recover = |bytes: &[u8], keys: &Keyring| {
        valid_prefix(bytes.len() as u64, 1, (keys, [7; 12]), |offset, length| {
            Ok::<_, Damage>(bytes[offset as usize..offset as usize + length].to_vec())
        })
    };
    // The first key writes on, and both read.
    let both = keys(&[2, 1]);
    let cut = whole[1].0 + 70;
    let prefix = recover(&bytes[..cut], &both).unwrap().unwrap();
    let mut left = bytes[..prefix.encoder.end() as usize].to_vec();
    assert_eq!(left.len(), whole[1].0);
    prefix.encoder.seal(&mut left);
    assert_eq!(check_with(&left, &both).unwrap().1, whole[1].2);
    assert!(matches!(check_with(&left, &keys(&[1])).unwrap_err().damage, Damage::Locked { .. }));
    for given in [keys(&[]), keys(&[3])] {
        assert!(matches!(recover(&bytes[..cut], &given), Err(Damage::Locked { .. })));
    }
    // Nothing is in it yet, and it was to be encrypted.
    assert!(matches!(recover(&bytes[..HEADER_BYTES], &keys(&[])), Err(Damage::Locked { .. })));
    assert!(recover(&bytes[..HEADER_BYTES], &keys(&[3])).unwrap().is_some());
}

#[test]
fn frames_are_copied_to_another_key_and_to_none() {
    let old = keys(&[1]);
    let bytes = sealed(encrypted(&old));
    let (checked, said) = check_with(&bytes, &old).unwrap();
    let (opener, mut scratch) = (Opener::new(&checked.header, &old), FrameScratch::default());
    for new in [keys(&[2]), keys(&[])] {
        let mut encoder = Encoder::transposing(header(), 1, Encryption::new(&new, [3; 12]));
        let mut copy = encoder.header().encode().to_vec();
        for FrameEntry { offset, header } in &checked.footer.frames {
            let stored = header.stored(&bytes[*offset as usize..], *offset, &opener).unwrap();
            let raw = header.records(&stored, &mut scratch).unwrap();
            encoder.copy(*header, &stored, &raw, &mut copy).unwrap();
        }
        encoder.seal(&mut copy);
        let (copied, records) = check_with(&copy, &new).unwrap();
        assert_eq!(copied.header.encrypted, !new.is_empty());
        assert_eq!(records, said);
        assert_eq!(copied.trailer.chain, checked.trailer.chain);
        assert!(check_with(&copy, &keys(&[1, 3])).is_ok() == new.is_empty());
    }
}
