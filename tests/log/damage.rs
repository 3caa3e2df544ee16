//! Any damage of a sealed segment is found and refused, and so is a segment that is in the wrong place.

use std::fs;
use std::path::Path;

use pgsluice::archive::{Archive, ArchiveId, Location, Manifest, Reader};
use pgsluice::model::{Fault, Position};
use pgsluice::segment::{Key, Keyring, SegmentName};
use pgsluice::verify::verify;

use super::crash::copy;
use super::messages::*;

fn read_all(archive: &Archive, after: Position) -> Result<usize, Fault> {
    let mut reader = Reader::open(archive, after, None)?;
    let mut count = 0;
    while reader.try_next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Sealed segments of two transactions each. Those of other seeds hold other rows.
async fn segments(folder: &Path, manifest: Manifest, count: u64, seed: u8) -> Archive {
    segments_at(&Location::folder(folder), manifest, count, seed).await
}

async fn segments_at(place: &Location, manifest: Manifest, count: u64, seed: u8) -> Archive {
    let archive = place.create(manifest).unwrap();
    let mut writer = open(&archive);
    for (number, messages) in transactions(count).iter_mut().enumerate() {
        let at = messages.len() - 1;
        messages.insert(at, insert(100, 0, &[b'a' + seed]));
        append(&mut writer, messages);
        if number % 2 == 1 {
            writer.seal();
        }
    }
    writer.close().await.unwrap();
    archive
}

#[tokio::test]
async fn any_damaged_byte_is_found_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let archive = segments(folder.path(), manifest(), 2, 0).await;
    let name = archive.segments().unwrap()[0];
    let path = archive.segment_path(name);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(read_all(&archive, START).unwrap(), 1);
    for offset in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (offset % 8);
        fs::write(&path, &damaged).unwrap();
        let report = verify(&archive, |_| ()).unwrap();
        let problem = report.problems.first().unwrap_or_else(|| panic!("byte {offset} was not found"));
        assert_eq!(problem.segment, Some(name.to_string()), "{offset}");
        assert_eq!((problem.after, problem.through), (START, Some(end(2))), "{offset}");
        let fault = read_all(&archive, START).unwrap_err();
        assert!(fault.message.contains(&name.to_string()), "{offset}: {fault}");
        assert_eq!(fault.exit_code(), 4);
    }
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(!verify(&archive, |_| ()).unwrap().problems.is_empty(), "{length}");
        assert!(read_all(&archive, START).is_err(), "{length}");
    }
    fs::write(&path, [bytes.as_slice(), b"x"].concat()).unwrap();
    assert!(!verify(&archive, |_| ()).unwrap().problems.is_empty());
    assert!(read_all(&archive, START).is_err());
}

#[tokio::test]
async fn a_segment_in_the_wrong_place_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let good = segments(&root.path().join("good"), manifest(), 8, 0).await;
    let names = good.segments().unwrap();
    assert_eq!(names.len(), 4);
    let foreign = Manifest { archive_id: ArchiveId([8; 16]), ..manifest() };
    let foreign = segments(&root.path().join("foreign"), foreign, 8, 0).await;
    let source = Manifest { system_identifier: 5, ..manifest() };
    let source = segments(&root.path().join("source"), source, 8, 0).await;
    let other_run = segments(&root.path().join("run"), manifest(), 8, 1).await;
    let second = names[1];
    type Harm<'a> = Box<dyn Fn(&Archive) + 'a>;
    let cases: Vec<(&str, &str, Harm<'_>)> = vec![
        ("deleted", "gap", Box::new(|archive| fs::remove_file(archive.segment_path(second)).unwrap())),
        (
            "swapped",
            "header says",
            Box::new(|archive| {
                let (one, two) = (archive.segment_path(second), archive.segment_path(names[2]));
                fs::rename(&one, root.path().join("x")).unwrap();
                fs::rename(&two, &one).unwrap();
                fs::rename(root.path().join("x"), &two).unwrap();
            }),
        ),
        (
            "renamed to a longer range",
            "trailer says",
            Box::new(|archive| {
                let name = pgsluice::segment::SegmentName::sealed(second.after, Position(end(4).0 + 1));
                fs::rename(archive.segment_path(second), archive.segment_path(name)).unwrap();
            }),
        ),
        (
            "renamed to no range",
            "no name of a segment",
            Box::new(|archive| {
                fs::rename(archive.segment_path(second), archive.root().join("segments/x.seg")).unwrap();
            }),
        ),
        (
            "of another archive",
            "another archive",
            Box::new(|archive| {
                fs::copy(foreign.segment_path(second), archive.segment_path(second)).unwrap();
            }),
        ),
        (
            "of another source",
            "another source",
            Box::new(|archive| {
                fs::copy(source.segment_path(second), archive.segment_path(second)).unwrap();
            }),
        ),
        (
            "of another run",
            "chain of hashes",
            Box::new(|archive| {
                fs::copy(other_run.segment_path(second), archive.segment_path(second)).unwrap();
            }),
        ),
    ];
    for (number, (what, why, harm)) in cases.iter().enumerate() {
        let folder = root.path().join(number.to_string());
        copy(good.root(), &folder);
        let archive = Archive::open(&folder).unwrap();
        harm(&archive);
        let fault = read_all(&archive, START).unwrap_err();
        assert!(fault.message.contains(why), "{what}: {fault}");
        assert_eq!(fault.exit_code(), 4, "{what}");
        let found = verify(&archive, |_| ());
        assert!(found.as_ref().map_or(true, |report| !report.problems.is_empty()), "{what}: {found:?}");
    }
    // The end is missing: only the durable mark can tell, and does.
    let folder = root.path().join("end");
    copy(good.root(), &folder);
    let archive = Archive::open(&folder).unwrap();
    fs::remove_file(archive.segment_path(names[3])).unwrap();
    fs::remove_file(archive.segment_path(pgsluice::segment::SegmentName::open(end(8)))).unwrap();
    let fault = read_all(&archive, START).unwrap_err();
    assert!(fault.message.contains("was durable up to 0/1800"), "{fault}");
    assert_eq!(verify(&archive, |_| ()).unwrap().problems[0].through, Some(end(8)));
    let fault = pgsluice::archive::Writer::open(&archive, 1, options()).err().unwrap();
    assert!(fault.message.contains("(0/1600, 0/1800]"), "{fault}");
    // What a retention leaves is fine, from where it begins.
    fs::remove_file(good.segment_path(names[0])).unwrap();
    fs::write(good.root().join("pruned.json"), serde_json::json!({ "through": end(2) }).to_string()).unwrap();
    assert_eq!(read_all(&good, end(2)).unwrap(), 3);
    assert!(read_all(&good, START).is_err());
    assert_eq!(verify(&good, |_| ()).unwrap().problems, []);
}

#[test]
fn a_manifest_is_kept_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Archive::open(folder.path()).unwrap_err();
    assert!(missing.hint.unwrap().contains("pgsluice setup") && missing.message.contains("no archive"));
    let archive = archive(folder.path());
    assert_eq!(*archive.manifest(), manifest());
    let again =
        Archive::create(folder.path(), Manifest { archive_id: ArchiveId([9; 16]), ..manifest() }).unwrap();
    assert_eq!(*again.manifest(), manifest());
    for other in [
        Manifest { system_identifier: 1, ..manifest() },
        Manifest { slot: "other".into(), ..manifest() },
        Manifest { database: "other".into(), ..manifest() },
    ] {
        let fault = Archive::create(folder.path(), other).unwrap_err();
        assert!(fault.exit_code() == 4 && fault.message.contains("another source's"), "{fault}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("segments"), mode("catalog"), mode("manifest.json")), (0o700, 0o700, 0o600));
    let path = folder.path().join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    for damaged in [
        text.replace("\"app\"", "\"apq\""),
        text.replace("7000000000000000001", "7000000000000000002"),
        text.replace("\"format\": 1", "\"format\": 2"),
        text[..text.len() / 2].to_string(),
        String::new(),
    ] {
        assert_ne!(damaged, text);
        fs::write(&path, damaged).unwrap();
        let fault = Archive::open(folder.path()).unwrap_err();
        assert_eq!(fault.exit_code(), 4, "{fault}");
    }
}

/// The same in the clear, chain and all, as who has no key could make it up.
#[tokio::test]
async fn behind_an_encrypted_segment_comes_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (here, clear) = (folder.path().join("here"), folder.path().join("clear"));
    let keys = Keyring::new(vec![Key::new([1; 32])]);
    let archive = segments_at(&Location { keys, ..Location::folder(&here) }, manifest(), 6, 0).await;
    segments(&clear, manifest(), 6, 0).await;
    let names = archive.segments().unwrap();
    let [first, second, _] = names[..] else { panic!("{names:?}") };
    let put = |name: SegmentName| {
        let name = name.to_string();
        fs::copy(clear.join("segments").join(&name), here.join("segments").join(&name)).unwrap();
    };
    // A log that was begun without a key goes on with one.
    put(first);
    assert!(read_all(&archive, START).is_ok());
    assert_eq!(verify(&archive, |_| ()).unwrap().problems, []);
    fs::remove_dir_all(&here).unwrap();
    let keys = Keyring::new(vec![Key::new([1; 32])]);
    let archive = segments_at(&Location { keys, ..Location::folder(&here) }, manifest(), 6, 0).await;
    put(second);
    let fault = read_all(&archive, START).unwrap_err();
    assert!(fault.message.contains(&format!("segment {second} is not encrypted")), "{}", fault.message);
    let problems = verify(&archive, |_| ()).unwrap().problems;
    assert!(problems.iter().any(|problem| problem.what.contains("is not encrypted")), "{problems:?}");
}
