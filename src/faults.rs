//! Points at which a test can end the program, and rules that a test can have it break. Hides how both are asked for: by the
//! environment, and only in a build with the feature `faults`. Without it the calls are nothing, and the program has nothing of this.
//!
//! `PGSLUICE_FAILPOINT=NAME:HIT` ends the process as kill -9 does, the HIT-th time that it comes to the point; with `:MILLISECONDS` behind
//! it the thread is held there before, while others go on. `PGSLUICE_MUTATION=NAME` breaks a rule. `PGSLUICE_DURABLE_NAMES=FOLDER` keeps the
//! files of folders under the names that a machine that loses its power would have.
//! `docs/RELIABILITY.md` has what was found with them.

/// Every point, with what lies just behind it.
#[cfg(feature = "faults")]
pub const POINTS: &[(&str, &str)] = &[
    ("receive.after_read", "bytes came from the source"),
    ("receive.after_append", "a message was given to the log"),
    ("receive.at_keepalive", "a keepalive came, nothing of it is noted"),
    ("receive.after_idle", "progress without a transaction was given to the log"),
    ("receive.before_acknowledge", "a status is about to be sent to the source"),
    ("receive.after_acknowledge", "it was sent"),
    ("receive.before_leave", "the last status of a connection is about to be sent"),
    ("log.after_compress", "a frame is made, and not written"),
    ("log.after_write", "it is written, and not synced"),
    ("log.before_sync", "a group of frames is written"),
    ("log.after_sync", "it is durable, and nobody knows"),
    ("log.after_publish", "its end is published"),
    ("log.at_rotation", "a segment is about to be sealed"),
    ("log.before_seal_sync", "its footer is written"),
    ("log.before_rename", "it is synced, under its open name"),
    ("log.after_rename", "it has its sealed name"),
    ("log.after_folder_sync", "the name is durable, and there is no open segment"),
    ("log.after_create", "the next segment's file is empty"),
    ("log.after_begin", "it has its header, and the name is durable"),
    ("press.before_sync", "a pressed segment is written beside the old one"),
    ("press.before_rename", "it is synced and proved"),
    ("press.after_rename", "it has taken the old one's name"),
    ("press.after_folder_sync", "the name is durable"),
    ("index.before", "a segment is about to enter the catalog"),
    ("index.after", "it has"),
    ("recovery.before_sync", "what a crash left is cut, and has a footer"),
    ("recovery.before_rename", "it is synced, under its open name"),
    ("recovery.after_rename", "it has its sealed name"),
    ("store.before_epoch", "the log is about to be claimed"),
    ("store.after_epoch", "the epoch is there, its beginning is not"),
    ("store.after_begin", "both are"),
    ("store.before_put", "a segment is about to be uploaded"),
    ("store.after_put", "it was, and later claims were not looked for"),
    ("store.after_look", "it counts"),
    ("apply.after_begin", "the target's transaction has begun"),
    ("apply.mid_batch", "a change was sent, or held for company"),
    ("apply.after_last_change", "all changes of a batch were sent"),
    ("apply.after_progress", "the new progress was sent too"),
    ("apply.before_commit", "the verdict is good"),
    ("apply.after_commit_sent", "COMMIT was sent, and not answered"),
    ("apply.before_first_lane", "all lanes but the first have committed"),
    ("apply.after_commit", "COMMIT was answered"),
    ("apply.dead_before_note", "a transaction is about to be noted as set aside"),
    ("apply.dead_after_note", "it is, and the progress is behind it"),
    ("apply.snapshot_emptied", "the table behind a view that is not shown is empty, and has no row yet"),
    ("apply.snapshot_whole", "all rows of a snapshot are in it, and the view shows the other one"),
    ("apply.between_batches", "a batch is noted as done"),
    ("apply.at_live", "the end of the log was met"),
    ("compact.before_name", "a merged segment is written beside those that it was made of"),
    ("compact.after_name", "it counts, and those are there still"),
    ("compact.amid_removal", "one of them is gone"),
    ("prune.after_announce", "how far a prune goes is written"),
    ("prune.before_remove", "a segment is about to go"),
    ("prune.between", "it has gone from the folder, and not from the store"),
    ("prune.after_remove", "it has gone"),
    ("copy.before_commit", "a part of a table is on the target, and not committed"),
    ("copy.after_commit", "it is"),
    ("copy.after_complete", "all tables are noted as whole, and what follows the rows is not made"),
    ("copy.before_large_objects_commit", "some large objects are on the target, and not committed"),
    ("backfill.after_join", "the applier leaves the tables out"),
    (
        "backfill.after_selected",
        "the rows that were chosen are on the target, or it is noted that all are brought",
    ),
    ("backfill.after_publish", "all of them are published"),
    ("backfill.after_empty", "they are empty on the target"),
    ("backfill.before_handover", "the applier is held, and the tables are as far"),
    ("backfill.after_handover", "it has them again"),
    ("copy.before_selected_commit", "rows that were selected are on the target, and not committed"),
    ("base.before_file", "a part of a table is read, and its file has no name"),
    ("base.after_table", "all parts of a table have, and it is noted"),
    ("restore.before_commit", "a part of a base is on the target, and not committed"),
    ("restore.after_commit", "it is"),
    ("poll.before_commit", "all of a pull is given to the log but its commit"),
    ("poll.after_commit", "it is durable, and nobody knows"),
    (
        "poll.before_queue_delete",
        "rows of a queue are read, what they stand for is durable, and they are still there",
    ),
    ("poll.after_queue_delete", "they are gone"),
    ("export.before_name", "all of an export is written, and it has no name"),
    ("copy.before_refresh_commit", "a table that was copied in parts is about to be of one snapshot"),
];

/// Every rule that can be broken, with what is done then.
#[cfg(feature = "faults")]
pub const MUTATIONS: &[(&str, &str)] = &[
    ("confirm_before_sync", "what was received is confirmed, durable or not"),
    ("folder_is_not_synced", "names of files are not made durable"),
    ("commit_lsn_is_progress", "the start of a commit is stored as the progress, not its end"),
    ("adjacent_is_known", "a commit that starts where the progress ends counts as applied"),
    ("progress_is_not_locked", "the progress row is read without FOR UPDATE"),
    ("origin_is_progress", "the replication origin is trusted, not the row"),
    ("unchanged_is_null", "a TOAST value that was not sent is taken for a null"),
    ("last_row_is_dropped", "the last row of each group of changes is left out"),
];

#[cfg(not(feature = "faults"))]
pub(crate) use disarmed::{mutated, names_are_durable, point};

#[cfg(feature = "faults")]
pub(crate) use armed::{mutated, names_are_durable, point};

#[cfg(not(feature = "faults"))]
mod disarmed {
    #[inline(always)]
    pub(crate) fn point(_name: &'static str) {}

    #[inline(always)]
    pub(crate) fn mutated(_name: &'static str) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn names_are_durable(_folder: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "faults")]
mod armed {
    use std::io::ErrorKind;
    use std::path::Path;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    struct Failpoint {
        name: String,
        hit: u64,
        held: Duration,
        passes: AtomicU64,
    }

    /// What was typed must be right, or a test that can't fail would pass.
    static FAILPOINT: LazyLock<Option<Failpoint>> = LazyLock::new(|| {
        let typed = std::env::var("PGSLUICE_FAILPOINT").ok()?;
        let mut words = typed.split(':');
        let name = words.next().unwrap_or_default().to_owned();
        let mut number = || words.next().map(|word| word.parse().unwrap_or_else(|_| refuse(&typed)));
        let (hit, held) = (number().unwrap_or(1), Duration::from_millis(number().unwrap_or(0)));
        if !super::POINTS.iter().any(|(known, _)| *known == name) {
            refuse(&typed);
        }
        Some(Failpoint { name, hit, held, passes: AtomicU64::new(0) })
    });

    static MUTATION: LazyLock<Option<String>> = LazyLock::new(|| {
        let typed = std::env::var("PGSLUICE_MUTATION").ok()?;
        if !super::MUTATIONS.iter().any(|(known, _)| *known == typed) {
            refuse(&typed);
        }
        Some(typed)
    });

    fn refuse(typed: &str) -> ! {
        eprintln!("there is no failpoint or mutation '{typed}'");
        std::process::abort()
    }

    pub(crate) fn point(name: &'static str) {
        let Some(failpoint) = FAILPOINT.as_ref().filter(|failpoint| failpoint.name == name) else { return };
        if failpoint.passes.fetch_add(1, Ordering::Relaxed) + 1 == failpoint.hit {
            std::thread::sleep(failpoint.held);
            eprintln!("failpoint {name} reached");
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// Keeps a folder's files under the names that they have now, for a test that takes the machine's power away.
    pub(crate) fn names_are_durable(folder: &Path) -> std::io::Result<()> {
        let (Some(kept), Some(name)) = (std::env::var_os("PGSLUICE_DURABLE_NAMES"), folder.file_name())
        else {
            return Ok(());
        };
        let kept = Path::new(&kept).join(name);
        match std::fs::remove_dir_all(&kept) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&kept)?,
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::hard_link(entry.path(), kept.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn mutated(name: &'static str) -> bool {
        MUTATION.as_deref() == Some(name)
    }
}
