use proptest::prelude::*;

use super::super::{Records, push_record};
use super::*;

fn records(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut raw = Vec::new();
    messages.iter().for_each(|message| push_record(&mut raw, message));
    raw
}

/// Whatever it is, it comes back; gives the length of the payload.
fn check(raw: &[u8]) -> Option<usize> {
    let payload = super::encode::payload(raw, &mut Squeeze::new(1))?;
    assert_eq!(from_transposed(&payload, raw.len()).as_deref(), Ok(raw));
    Some(payload.len())
}

fn begin(lsn: u64, time: u64, xid: u32) -> Vec<u8> {
    [&b"B"[..], &lsn.to_be_bytes(), &time.to_be_bytes(), &xid.to_be_bytes()].concat()
}

fn commit(flags: u8, lsn: u64, end: u64, time: u64) -> Vec<u8> {
    [&b"C"[..], &[flags], &lsn.to_be_bytes(), &end.to_be_bytes(), &time.to_be_bytes()].concat()
}

fn row(marker: u8, cells: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![marker];
    out.extend((cells.len() as u16).to_be_bytes());
    for (kind, value) in cells {
        out.push(*kind);
        if matches!(kind, b't' | b'b') {
            out.extend((value.len() as u32).to_be_bytes());
            out.extend(value);
        }
    }
    out
}

fn change(tag: u8, relation: u32, rows: &[Vec<u8>]) -> Vec<u8> {
    [&[tag][..], &relation.to_be_bytes(), &rows.concat()].concat()
}

fn text(value: &str) -> (u8, Vec<u8>) {
    (b't', value.as_bytes().to_vec())
}

/// Transactions as an application makes them: rows that refer to each other, times, amounts, nulls, whole old rows.
fn realistic(count: u64) -> Vec<Vec<u8>> {
    let mut random = 88_172_645_463_325_252u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut messages = Vec::new();
    let (mut lsn, mut time) = (0x1_5000_0000u64, 800_000_000_000_000u64);
    for number in 0..count {
        lsn += 0x200 + next(90) * 8;
        time += 40 + next(700);
        messages.push(begin(lsn, time, 700 + number as u32));
        let id = text(&format!("{:08x}-{:04x}-{:016x}", next(1 << 32), next(1 << 16), next(u64::MAX)));
        let at = text(
            format!("2026-03-01 12:{:02}:{:02}.{:06}+00", number / 60 % 60, number % 60, next(1_000_000))
                .trim_end_matches('0'),
        );
        let state = text(["new", "paid", "sent", "done"][next(4) as usize]);
        let null = (b'n', Vec::new());
        messages.push(change(
            b'I',
            100,
            &[row(b'N', &[id.clone(), at.clone(), state.clone(), null.clone()])],
        ));
        for line in 0..next(4) {
            let amount =
                text(&format!("{}{}.{:02}", if next(9) == 0 { "-" } else { "" }, next(900), next(100)));
            let note = if next(3) == 0 { null.clone() } else { text("of the usual kind") };
            messages.push(change(
                b'I',
                200,
                &[row(b'N', &[id.clone(), text(&line.to_string()), amount, note])],
            ));
        }
        let old = [id.clone(), at.clone(), state, null.clone()];
        let new = [id.clone(), at, text("paid"), (b'u', Vec::new())];
        messages.push(match next(4) {
            0 => change(b'D', 100, &[row(b'K', &[id, null.clone(), null.clone(), null])]),
            1 => change(b'D', 300, &[row(b'O', &old)]),
            2 => change(b'U', 100, &[row(b'N', &new)]),
            _ => change(b'U', 300, &[row(b'O', &old), row(b'N', &new)]),
        });
        if number % 50 == 7 {
            messages.push(b"M\x01\0\0\0\0\0\0\x10\x10app\0\0\0\0\x02hi".to_vec());
        }
        messages.push(commit(0, lsn, lsn + 0x30, time));
    }
    messages
}

#[test]
fn realistic_records_take_half_of_zstd() {
    let raw = records(&realistic(2_000));
    let zstd = zstd::bulk::compress(&raw, 1).unwrap().len();
    let length = check(&raw).unwrap();
    assert!(length * 10 < zstd * 7, "{length} against {zstd}");
}

/// Counters, times and amounts in binary form.
#[test]
fn integers_take_no_more_than_their_texts() {
    let rows = |cells: &dyn Fn(i64) -> Vec<(u8, Vec<u8>)>| {
        let row = |number| change(b'I', 1, &[row(b'N', &cells(number))]);
        records(&(0..2_000).map(row).collect::<Vec<_>>())
    };
    let time = |number: i64| 800_000_000_000_000 + number * 1_370_000;
    let amount = |number: i64| number.wrapping_mul(0x9E37_79B9) % 100_000;
    let binary = check(&rows(&|number| {
        let narrow = (amount(number) as i32).to_be_bytes().to_vec();
        vec![
            (b'b', number.to_be_bytes().to_vec()),
            (b'b', time(number).to_be_bytes().to_vec()),
            (b'b', narrow),
        ]
    }));
    let as_text = check(&rows(&|number| {
        vec![text(&number.to_string()), text(&time(number).to_string()), text(&amount(number).to_string())]
    }));
    assert!(binary <= as_text, "{binary:?} against {as_text:?}");
}

#[test]
fn parts_of_transactions_come_back() {
    let messages = realistic(20);
    for start in 0..messages.len() {
        for end in [start, start + 1, start + 7, messages.len()] {
            check(&records(messages.get(start..end).unwrap_or_default()));
        }
    }
}

#[test]
fn what_does_not_fit_stays_as_it_is() {
    let mut messages = realistic(50);
    // Messages of every length that ends too early, of unknown kinds, and none at all.
    for message in realistic(2) {
        messages.extend((0..message.len()).map(|length| message[..length].to_vec()));
        messages.push([&message[..], b"x"].concat());
    }
    messages.extend([b"Z".to_vec(), Vec::new(), b"I\0\0\0\x01O\0\0".to_vec(), b"D\0\0\0\x01N\0\0".to_vec()]);
    check(&records(&messages)).unwrap();
    // More kinds of changes than there are numbers for, and more columns.
    let many: Vec<_> =
        (0..400u32).map(|relation| change(b'I', relation, &[row(b'N', &[text("1")])])).collect();
    check(&records(&many)).unwrap();
    let cells = vec![text("1"); 1_600];
    let wide = |relation: u32, old: bool| {
        let old = old.then(|| row(b'O', &cells));
        let rows: Vec<_> = old.into_iter().chain([row(b'N', &cells)]).collect();
        change(if rows.len() == 2 { b'U' } else { b'I' }, relation, &rows)
    };
    // The last whose columns have room has but one row, and comes after one that has two.
    let wide: Vec<_> = (0..14).map(|relation| wide(relation, matches!(relation, 2 | 8 | 9))).collect();
    check(&records(&wide)).unwrap();
    // A length that is written longer than it need be.
    assert_eq!(transposed(&[&[0x80 | 24, 0][..], &[b'Z'; 24]].concat(), 1), None);
    assert_eq!(transposed(&[5, 0], 1), None);
    assert_eq!(transposed(&vec![0; RAW_BYTES_MAX + 1], 1), None);
}

/// Any change of a payload is an error or other records of that length; never a panic, never more memory.
#[test]
fn damaged_payloads_are_survived() {
    let raw = records(&realistic(30));
    let mut payload = transposed(&raw, 1).unwrap();
    for bit in 0..payload.len() * 8 {
        payload[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = from_transposed(&payload, raw.len()) {
            assert_eq!(other.len(), raw.len());
            assert!(Records::new(&other).all(|record| record.is_ok()));
        }
        payload[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..payload.len() {
        assert!(from_transposed(&payload[..length], raw.len()).is_err(), "{length}");
    }
    for raw_len in [0, 1, raw.len() - 1, raw.len() + 1, RAW_BYTES_MAX + 1, usize::MAX] {
        assert!(from_transposed(&payload, raw_len).is_err(), "{raw_len}");
    }
}

fn cell() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        Just((b'n', Vec::new())),
        Just((b'u', Vec::new())),
        "-?[0-9]{1,20}".prop_map(|value| text(&value)),
        "[0-9]{1,3}\\.[0-9]{1,6}".prop_map(|value| text(&value)),
        "[ab]{0,2}".prop_map(|value| text(&value)),
        "\\PC{0,20}".prop_map(|value| text(&value)),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|value| (b'b', value)),
    ]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let cells = || prop::collection::vec(cell(), 0..4);
    prop_oneof![
        3 => (0u32..3, cells()).prop_map(|(relation, new)| change(b'I', relation, &[row(b'N', &new)])),
        2 => (0u32..3, cells()).prop_map(|(relation, new)| change(b'U', relation, &[row(b'N', &new)])),
        2 => (0u32..3, cells(), cells(), any::<bool>()).prop_map(|(relation, old, new, key)| {
            change(b'U', relation, &[row(if key { b'K' } else { b'O' }, &old), row(b'N', &new)])
        }),
        1 => (0u32..3, cells()).prop_map(|(relation, old)| change(b'D', relation, &[row(b'K', &old)])),
        1 => (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(lsn, time, xid)| begin(lsn, time, xid)),
        1 => (any::<u8>(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(flags, lsn, end, time)| commit(flags, lsn, end, time)),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_messages_come_back(messages in prop::collection::vec(message(), 0..60), repeat in 1usize..12) {
        // Repeated, so that there is something to save and no way out.
        check(&records(&vec![messages; repeat].concat()));
    }

    #[test]
    fn any_integers_come_back(
        values in prop::collection::vec(prop_oneof![4 => any::<[u8; 8]>().prop_map(Some), 1 => Just(None)], 1..60),
        width in 1usize..=9,
        odd in prop::option::of("[ -~]{0,9}"),
    ) {
        let cell = |value: &Option<[u8; 8]>| match value {
            Some(bytes) => (b'b', bytes.iter().chain(&[7]).copied().take(width).collect()),
            None => (b'n', Vec::new()),
        };
        let odd = odd.map(|odd| (b'b', odd.into_bytes()));
        let cells = values.iter().map(cell).chain(odd);
        check(&records(&cells.map(|cell| change(b'I', 1, &[row(b'N', &[cell])])).collect::<Vec<_>>()));
    }

    #[test]
    fn any_payload_is_survived(payload in prop::collection::vec(any::<u8>(), 0..200), raw_len in 0usize..5_000) {
        let _ = from_transposed(&payload, raw_len);
    }
}
