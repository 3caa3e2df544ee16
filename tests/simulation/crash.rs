//! What a disk has left after its machine has crashed: all that was synced, and of the rest what it likes.

use std::fs;
use std::path::Path;

use pgsluice::archive::Mark;
use pgsluice::segment::SegmentName;

use super::random::Random;

/// Copies what an archive's folder would have after a crash at this moment. It may be written to meanwhile.
pub(super) fn crash(from: &Path, to: &Path, random: &mut Random) {
    let mark = loop {
        let _ = fs::remove_dir_all(to);
        let before = Mark::read(from).unwrap();
        copy(from, to);
        let after = Mark::read(from).unwrap();
        // The copy is of one moment if no segment was sealed in between.
        if let (Some(before), Some(after)) = (before, after)
            && before.segment == after.segment
            && to.join("segments").join(SegmentName::open(before.segment).to_string()).exists()
        {
            fs::copy(to.join("durable"), to.join("durable.before")).unwrap();
            break before;
        }
    };
    fs::remove_file(to.join("durable.before")).unwrap();
    // Sealed behind the mark that was read: not of this moment.
    for entry in fs::read_dir(to.join("segments")).unwrap() {
        let entry = entry.unwrap();
        let name = SegmentName::parse(&entry.file_name().to_string_lossy());
        if name.is_some_and(|name| name.after > mark.segment) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let open = to.join("segments").join(SegmentName::open(mark.segment).to_string());
    let mut bytes = fs::read(&open).unwrap();
    let synced = mark.offset as usize;
    assert!(bytes.len() >= synced, "the mark claims {synced} bytes of {}", bytes.len());
    let behind = (bytes.len() - synced) as u64;
    let kept = synced + random.below(behind + 1) as usize;
    match random.below(4) {
        // Only the process was killed.
        0 => {}
        1 => bytes.truncate(kept),
        2 => bytes[kept..].fill(0),
        _ => bytes[kept..].iter_mut().for_each(|byte| *byte = random.next() as u8),
    }
    fs::write(open, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("segments")).unwrap();
    // The mark first: it claims no more than the files have that are copied after it.
    for name in ["durable", "manifest.json", "published.json"] {
        let _ = fs::copy(from.join(name), to.join(name));
    }
    // The catalog is derived. A file in its place spares the time to build one.
    fs::write(to.join("catalog"), b"").unwrap();
    for entry in fs::read_dir(from.join("segments")).unwrap() {
        let entry = entry.unwrap();
        let _ = fs::copy(entry.path(), to.join("segments").join(entry.file_name()));
    }
}
