//! Archives that are encrypted: no row is on disk in the clear, whatever happens, and who has not the key is told so.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::ledger::{self, Dice};
use crate::support::{Cluster, Pgsluice, Road, Running, assert_tables_equal, seconds, wait_until};

const TABLE: &str = "create table t(id int primary key, v text);";
const KEY: &str = "PGSLUICE_ARCHIVE_KEY";
/// In each row; short enough to outlive compression in a spool, which has none.
const MARKER: &str = "marzipan";
/// Where a segment's flags are, and what says that it is encrypted.
const FLAGS: usize = 10;

fn digits(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

fn encrypted_road() -> Road {
    Road::with_settings(TABLE, TABLE, &[(KEY, &digits(1))])
}

fn with_keys(road: &mut Road, keys: &str) {
    let program = std::mem::replace(&mut road.program, Pgsluice::with("", ""));
    road.program = program.env(KEY, keys);
}

fn rows(road: &Road, from: u32, to: u32) {
    road.change(&format!(
        "insert into t select i, '{MARKER}' || md5(i::text) from generate_series({from}, {to}) i"
    ));
}

/// All files below, that are still there when they are read.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// Those in which something stands as it is.
fn telling(folder: &Path, what: &str) -> Vec<PathBuf> {
    let tells = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what.as_bytes());
    files(folder).into_iter().filter(|(_, bytes)| tells(bytes)).map(|(path, _)| path).collect()
}

/// How many segments are encrypted, and how many are not.
fn segments(folder: &Path) -> (usize, usize) {
    let is_segment = |path: &Path| path.extension().is_some_and(|end| end == "seg" || end == "open");
    let segments: Vec<_> = files(folder).into_iter().filter(|(path, _)| is_segment(path)).collect();
    let encrypted = segments.iter().filter(|(_, bytes)| bytes[FLAGS] & 1 != 0).count();
    (encrypted, segments.len() - encrypted)
}

/// The id of the key with which an archive without a key says that it is encrypted.
#[track_caller]
fn asked_for(program: &Pgsluice, arguments: &[&str]) -> String {
    let outcome = program.run(arguments).ends_with(2);
    let (_, asked) =
        outcome.stderr.split_once("is encrypted with key ").unwrap_or_else(|| panic!("{outcome}"));
    assert!(outcome.stderr.contains("--key-file"), "{outcome}");
    asked.split(',').next().unwrap().to_owned()
}

/// A receiver with a transaction under way that is too large for its memory, and what the spool tells then.
fn spooling(road: &Road, first: u32) -> Vec<PathBuf> {
    let receiver = road.program.start(&["receive"]);
    let session = road.source.session();
    session.query("begin");
    let note = format!("'{MARKER}' || repeat(md5(random()::text), 10)");
    let last = first + 30_000;
    session.query(&format!("insert into t select i, {note} from generate_series({first}, {last}) i"));
    let spool = road.program.archive().join("spool");
    wait_until(seconds(30), "it is on the disk", || files(&spool).iter().any(|(_, bytes)| !bytes.is_empty()));
    let told = telling(&road.program.archive(), MARKER);
    let received = || road.program.status()["archive"]["transactions"].as_u64().unwrap_or_default();
    let before = received();
    session.query("commit");
    wait_until(seconds(30), "it is in the log", || received() > before);
    receiver.terminate(seconds(20)).done();
    told
}

#[test]
fn no_row_is_in_the_clear_from_the_first_run_with_a_key_on() {
    let source = Cluster::prepare_source().set("logical_decoding_work_mem", "64kB").start();
    let mut road = Road::between(source, Cluster::target(), TABLE, TABLE);
    // Else it would not be found in the spool where it is.
    let told = spooling(&road, 1);
    assert!(told.iter().any(|path| path.extension().is_some_and(|end| end == "spool")), "{told:?}");
    let plain = segments(&road.program.archive());
    assert!(plain.0 == 0 && plain.1 > 0, "{plain:?}");
    let known: Vec<_> = files(&road.program.archive()).into_iter().map(|(path, _)| path).collect();

    with_keys(&mut road, &digits(1));
    let told: Vec<_> = spooling(&road, 100_000).into_iter().filter(|path| !known.contains(path)).collect();
    assert_eq!(told, Vec::<PathBuf>::new());
    rows(&road, 200_000, 200_100);
    road.arrives();
    assert_eq!(segments(&road.program.archive()).1, plain.1);
    assert!(segments(&road.program.archive()).0 >= 2);
    let told = telling(&road.program.archive(), MARKER);
    assert_eq!(
        told.into_iter().filter(|path| !known.contains(path)).collect::<Vec<_>>(),
        Vec::<PathBuf>::new()
    );
    // Nor is the key anywhere.
    assert_eq!(telling(&road.program.archive(), &digits(1)), Vec::<PathBuf>::new());

    // Both kinds are one log, to a target that begins at its start too.
    let verified = road.program.run(&["archive", "verify", "--json"]).done().json();
    assert_eq!(verified["problems"], serde_json::json!([]));
    let target = Cluster::target();
    target.run_script(TABLE);
    let endpos = road.program.status()["archive"]["last_lsn"].as_str().unwrap().to_owned();
    road.program.run(&["apply", "--target", &target.conninfo(), "--endpos", &endpos]).done();
    assert_tables_equal(&road.source, &target);
    // A receiver without the key does not go on in the clear.
    with_keys(&mut road, &digits(9));
    asked_for(&road.program, &["receive", "--endpos", "current"]);
    assert_eq!(segments(&road.program.archive()).1, plain.1);
}

/// Segments are sealed each second and pressed right after it.
#[test]
fn kill_9_with_a_key_loses_nothing_and_doubles_nothing() {
    let road = ledger::road_with(&[(KEY, &digits(1))]);
    let (load, _script) = ledger::load(&road.source, 400);
    let mut dice = Dice(6);
    for _ in 0..ledger::kills() {
        let running = road.program.start(&["follow", "--segment-age", "1"]);
        std::thread::sleep(dice.milliseconds(50, 2500));
        running.kill();
        ledger::assert_holds(&road.target);
    }
    let running = road.program.start(&["receive", "--segment-age", "1"]);
    std::thread::sleep(seconds(3));
    running.terminate(seconds(20)).done();
    load.kill();
    road.arrives();
    ledger::assert_holds(&road.target);
    road.program.run(&["archive", "verify"]).done();
    assert_eq!(segments(&road.program.archive()).1, 0);
    // They were pressed: a second of 400 transactions is not as many frames.
    let list = road.program.run(&["archive", "list", "--json"]).done().stdout;
    let busiest = list
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .max_by_key(|segment| segment["transactions"].as_u64())
        .unwrap();
    let shown =
        road.program.run(&["archive", "show", "--json", busiest["name"].as_str().unwrap()]).done().json();
    let frames = shown["frames"].as_array().unwrap().len() as u64;
    assert!(frames * 20 < busiest["transactions"].as_u64().unwrap(), "{frames} frames: {busiest}");
}

#[test]
fn each_command_says_which_key_it_wants() {
    let mut road = encrypted_road();
    rows(&road, 1, 100);
    road.arrives();
    let segment = road.program.run(&["archive", "list", "--json"]).done().json()["name"].clone();
    let segment = segment.as_str().unwrap().to_owned();
    let [key, other] = [1, 2].map(|number| {
        let file = road.program.folder().join(format!("{number}.key"));
        std::fs::write(&file, digits(number)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    });
    let copy = road.program.folder().join("copy").display().to_string();
    let commands: [&[&str]; 9] = [
        &["receive", "--endpos", "current"],
        &["follow", "--endpos", "current"],
        &["archive", "verify"],
        &["archive", "list"],
        &["archive", "show", &segment],
        &["archive", "show", "--lsn", "0/0"],
        &["archive", "copy", &copy],
        &["archive", "reindex"],
        &["apply", "--endpos", "current"],
    ];
    // The applier has nothing to read yet where its target is.
    let target = Cluster::target();
    target.run_script(TABLE);
    let plain = std::mem::replace(&mut road.program, Pgsluice::with("", "")).env(KEY, "");
    let archive = plain.archive().display().to_string();
    road.program = plain.env("PGSLUICE_ARCHIVE", &archive).target(&target.conninfo());
    // What was seen of the segments is known without their key.
    std::fs::remove_dir_all(road.program.archive().join("catalog")).unwrap();
    // An empty variable is no key, and an error of its own.
    let outcome = road.program.run(&["archive", "verify"]).ends_with(2);
    assert!(outcome.stderr.contains("PGSLUICE_ARCHIVE_KEY holds no key"), "{outcome}");
    let mut ids = Vec::new();
    for command in commands {
        let wrong = [command, &["--key-file", &other]].concat();
        ids.push(asked_for(&road.program, &wrong));
        let outcome = road.program.run(&wrong);
        assert!(outcome.stderr.contains("and the key given is "), "{outcome}");
        let outcome = road.program.run(&[command, &["--key-command", "true"]].concat()).ends_with(2);
        assert!(outcome.stderr.contains("no key"), "{outcome}");
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(ids[0].len(), 16);
    // What needs no rows needs no key.
    for command in [&["archive", "pins"][..], &["archive", "prune"], &["sentinel", "get"]] {
        road.program.run(&[command, &["--key-file", &other]].concat()).done();
    }
    let status = road.program.run(&["status", "--json", "--key-file", &other]).done().json();
    let reason = status["unreachable"]["archive"].as_str().unwrap();
    assert!(reason.contains("is encrypted with key"), "{status}");
    // With the right one each goes on, from wherever it is.
    for command in commands {
        road.program.run(&[command, &["--key-command", &format!("cat {key}")]].concat()).done();
    }
    assert_tables_equal(&road.source, &target);
    let same = |one: &Path, other: &Path| std::fs::read(one).unwrap() == std::fs::read(other).unwrap();
    let place = Path::new("segments").join(&segment);
    assert!(same(&Path::new(&copy).join(&place), &road.program.archive().join(&place)));
    // The file has the flags' words.
    let config = road.program.folder().join("config.toml");
    std::fs::write(&config, format!("key-file = '{key}'")).unwrap();
    let config = config.display().to_string();
    let without = |arguments: &[&str]| {
        let mut command = road.program.command(arguments);
        command.env_remove(KEY);
        Running::spawn(command).wait(seconds(60))
    };
    without(&["archive", "verify", "--config", &config]).done();
    let outcome = without(&["archive", "verify"]).ends_with(2);
    assert!(outcome.stderr.contains("and no key was given"), "{outcome}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = without(&["archive", "verify", "--config", &config]).ends_with(2);
    assert!(outcome.stderr.contains("mode 0644") && !outcome.stderr.contains(&digits(1)), "{outcome}");
}

#[test]
fn a_new_first_key_writes_and_the_old_one_reads() {
    let mut road = encrypted_road();
    rows(&road, 1, 100);
    road.arrives();
    let made = road.program.run(&["archive", "new-key"]).done().stdout;
    assert_eq!((made.len(), made.bytes().filter(u8::is_ascii_hexdigit).count()), (65, 64));
    assert_ne!(made, road.program.run(&["archive", "new-key"]).done().stdout);
    let both = format!("{made}\n# the old one\n{}\n", digits(1));
    with_keys(&mut road, &both);
    rows(&road, 101, 200);
    // What the old key has begun is gone on with, sealed and pressed.
    let receiver = road.program.start(&["receive"]);
    rows(&road, 201, 300);
    let received = || road.program.status()["archive"]["transactions"].as_u64().unwrap_or_default() >= 3;
    wait_until(seconds(20), "it is in the log", received);
    receiver.kill();
    road.arrives();
    road.program.run(&["archive", "verify"]).done();

    with_keys(&mut road, &digits(1));
    let new = asked_for(&road.program, &["receive", "--endpos", "current"]);
    with_keys(&mut road, &made);
    let old = asked_for(&road.program, &["archive", "verify"]);
    assert_ne!(new, old);
    // Who only receives needs the newest only.
    rows(&road, 301, 400);
    road.program.run(&["receive", "--endpos", "current"]).done();
    with_keys(&mut road, &both);
    road.arrives();
    road.program.run(&["archive", "verify"]).done();
}

#[test]
fn a_store_holds_nothing_in_the_clear_and_feeds_who_has_the_key() {
    let settings = [("PGSLUICE_SPOOL", "spool"), ("PGSLUICE_DURABLE", "store"), (KEY, &*digits(1))];
    let road = Road::with_settings(TABLE, TABLE, &settings);
    let receiver = road.program.start(&["receive", "--segment-age", "1"]);
    for batch in 0..3 {
        rows(&road, batch * 1000 + 1, (batch + 1) * 1000);
        std::thread::sleep(seconds(1));
    }
    let end = road.source.current_lsn();
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = 'pgsluice'"
    );
    wait_until(seconds(30), "the store has it", || road.source.value(&confirmed) == "t");
    receiver.kill();
    let store = road.program.archive();
    assert_eq!(segments(&store).1, 0);
    assert!(segments(&store).0 > 1);

    let target = Cluster::target();
    target.run_script(TABLE);
    let elsewhere = |key: u8| {
        let program =
            Pgsluice::between(&road.source, &target).env("PGSLUICE_ARCHIVE", &store.display().to_string());
        program.env("PGSLUICE_SPOOL", "spool").env(KEY, &digits(key))
    };
    asked_for(&elsewhere(2), &["apply", "--endpos", &end]);
    let program = elsewhere(1);
    program.run(&["apply", "--endpos", &end]).done();
    assert_tables_equal(&road.source, &target);
    // Another receiver goes on where the first one was.
    rows(&road, 4000, 4100);
    program.run(&["follow", "--endpos", "current"]).done();
    assert_tables_equal(&road.source, &target);
    for folder in [&store, &program.folder().join("spool"), &road.program.folder().join("spool")] {
        assert_eq!(telling(folder, MARKER), Vec::<PathBuf>::new());
        assert_eq!(segments(folder).1, 0);
    }
    program.run(&["archive", "verify"]).done();
}
