//! A full disk stalls the writer and loses nothing; when there is space it goes on by itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgsluice::archive::{Archive, Writer, WriterState};
use pgsluice::model::Position;

use super::messages::*;

/// A file system of a few megabytes in memory; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    fn mount(size: &str) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "pgsluice-test"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(SmallDisk(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Transactions of about 40 KB that can't be compressed away.
fn sent(count: u64) -> Vec<Vec<Vec<u8>>> {
    let mut random = 88_172_645_463_325_252u64;
    (1..=count)
        .map(|number| {
            let value: Vec<u8> = (0..5_000)
                .flat_map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random.to_le_bytes()
                })
                .collect();
            vec![
                begin(end(number), 1),
                relation(100, "one", 25),
                insert(100, number, &value),
                commit(end(number)),
            ]
        })
        .collect()
}

async fn state(writer: &Writer, wanted: impl Fn(&WriterState) -> bool) {
    let mut durable = writer.durable();
    let wait = durable.wait_for(|durable| wanted(&durable.state));
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the state was not reached").unwrap();
}

fn is_stalled(state: &WriterState) -> bool {
    matches!(state, WriterState::Stalled(message) if message.contains("disk is full"))
}

#[tokio::test]
async fn a_full_disk_stalls_and_goes_on() {
    let Some(disk) = SmallDisk::mount("4m") else {
        println!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    let archive: Archive = archive(&disk.path().join("archive"));
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let mut writer = open(&archive);
    let sent = sent(60);
    for (messages, number) in sent.iter().zip(1..) {
        append(&mut writer, messages);
        writer.flush();
        if number == 1 {
            durable(&writer, end(1)).await;
        }
    }
    state(&writer, is_stalled).await;
    let stopped = writer.durable().borrow().position;
    assert!(stopped > START && stopped < end(60));
    // What is durable is whole and readable meanwhile, and nothing of what is not. The catalog shares the disk and may
    // give a little of it back, so that the log gets on by a few frames.
    let whole = (stopped.0 - START.0) / 0x100;
    let read = said(&frames(&archive, START));
    assert!(read.len() >= flat(&sent[..whole as usize]).len() && flat(&sent).starts_with(&read));
    assert!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems.is_empty());
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!((stopped..end(60)).contains(&writer.durable().borrow().position));

    fs::remove_file(&ballast).unwrap();
    durable(&writer, end(60)).await;
    state(&writer, |state| *state == WriterState::Running).await;
    assert_eq!(said(&frames(&archive, START)), flat(&sent));

    // Full while a huge transaction is half written and then discarded, and while sealing.
    let free = rest(disk.path());
    fs::write(&ballast, vec![0; free.saturating_sub(300 << 10) as usize]).unwrap();
    writer.append(&begin(end(61), 1)).unwrap();
    for row in 0..150 {
        writer.append(&insert(100, row, &sent[row as usize % 60][2])).unwrap();
    }
    state(&writer, is_stalled).await;
    writer.discard();
    fs::remove_file(&ballast).unwrap();
    let free = rest(disk.path());
    let last = vec![begin(end(61), 1), insert(100, 1, b"small"), commit(end(61))];
    append(&mut writer, &last);
    assert_eq!(writer.close().await.map_err(|fault| (fault.message, free)).unwrap(), end(61));
    assert_eq!(said(&frames(&archive, end(60))), flat(&[last]));
    assert!(pgsluice::verify::verify(&archive, |_| ()).unwrap().problems.is_empty());
}

#[tokio::test]
async fn closing_on_a_full_disk_ends_and_loses_nothing_durable() {
    let Some(disk) = SmallDisk::mount("3m") else {
        println!("skipped: mounting a tmpfs is not permitted here");
        return;
    };
    let archive: Archive = archive(&disk.path().join("archive"));
    let mut writer = open(&archive);
    let sent = sent(100);
    for messages in &sent {
        append(&mut writer, messages);
        writer.flush();
    }
    state(&writer, is_stalled).await;
    let stopped = writer.durable().borrow().position;
    let fault = tokio::time::timeout(Duration::from_secs(5), writer.close()).await.unwrap().unwrap_err();
    assert!(fault.message.contains("disk is full"), "{fault}");
    let whole = (stopped.0 - START.0) / 0x100;
    assert_eq!(said(&frames(&archive, START)), flat(&sent[..whole as usize]));
    // With space again the next writer recovers at least that.
    let _ = fs::remove_dir_all(archive.catalog_folder());
    Command::new("mount").args(["-o", "remount,size=16m"]).arg(disk.path()).status().unwrap();
    let mut writer = open(&archive);
    let received: Position = writer.received();
    assert!(received >= stopped);
    let whole = (received.0 - START.0) / 0x100;
    sent.iter().skip(whole as usize).for_each(|messages| append(&mut writer, messages));
    writer.close().await.unwrap();
    assert_eq!(said(&frames(&archive, START)), flat(&sent));
}

/// Free bytes.
fn rest(path: &Path) -> u64 {
    let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (blocks, size) = text.trim().split_once(' ').unwrap();
    blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
}
