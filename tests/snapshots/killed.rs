//! kill -9 anywhere: the view shows the snapshot before or the new one, and the next run goes on.

use super::log::{Log, plain, version};
use super::seen;
use crate::support::{Cluster, Running, seconds};

#[test]
fn kill_9_leaves_the_snapshot_before_or_the_new_one() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    let points = [
        "apply.after_begin:1",
        "apply.snapshot_emptied:1",
        "apply.mid_batch:700",
        "apply.snapshot_whole:1",
        "apply.after_progress:1",
        "apply.before_commit:1",
        "apply.after_commit_sent:1",
        "apply.after_commit:1",
    ];
    let mut ver = 0;
    // The first snapshot, one of the same columns.
    for point in points.iter().chain(&points) {
        let before = if ver == 0 { String::new() } else { seen(&target) };
        ver += 1;
        log.snapshot(&plain(), version(ver, 1000));
        let end = log.end();
        let mut command = log.program.command(&["apply", "--endpos", &end]);
        command.env("PGSLUICE_FAILPOINT", point);
        let outcome = Running::spawn(command).wait(seconds(60));
        assert!(outcome.code.is_none() && outcome.stderr.contains("reached"), "{point}: {outcome}");
        if ver > 1 {
            let now = seen(&target);
            assert!(now == before || now == format!("1000 {ver} {ver}"), "{point}: {now}");
        }
        log.apply();
        assert_eq!(seen(&target), format!("1000 {ver} {ver}"), "{point}");
    }
    let counted = "select format('%s %s', transactions, changes) from pgsluice.progress";
    assert_eq!(target.value(counted), format!("{ver} {}", ver * 1000));
}
