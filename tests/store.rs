//! Object stores at their seam: one behaviour of a folder, of an S3 server and of one that misbehaves.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pgsluice::model::{Fault, Remedy};
use pgsluice::store::{Access, Object, Patience, Place, Put, Store, Support};

use crate::support::{Bucket, Misdeed, Moto, seconds, wait_until};

const BRIEF: Patience = Patience {
    retry: Duration::from_millis(800),
    answer: Duration::from_millis(700),
    bytes_per_second: 1 << 20,
};

fn open(place: &str, environment: Vec<(String, String)>, patience: Patience) -> Store {
    let place = Place::parse(place).unwrap().unwrap();
    Store::open_with(&place, &Access::new(environment, patience)).unwrap()
}

fn bucket_store(bucket: &Bucket) -> Store {
    open("s3://bucket/archive", bucket.environment(), Patience::default())
}

/// A store that gives up soon.
fn hasty(bucket: &Bucket) -> Store {
    open("s3://bucket/archive", bucket.environment(), BRIEF)
}

fn folder_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&format!("file://{}/archive", folder.path().display()), Vec::new(), BRIEF);
    (folder, store)
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What holds of every store.
fn check(store: &Store) {
    // Nothing is there yet, nor is the folder.
    assert_eq!(store.list("", None).unwrap(), []);
    assert_eq!((store.get("a").unwrap(), store.size("a").unwrap()), (None, None));
    assert_eq!(store.range("a", 0, 1).unwrap(), None);
    store.delete("a").unwrap();

    // Once, and the same again.
    assert_eq!(store.put_once("log/b", bytes("0123456789")).unwrap(), Put::Done);
    assert_eq!(store.put_once("log/b", bytes("0123456789")).unwrap(), Put::Done);
    assert_eq!(store.put_once("log/b", bytes("9876543210")).unwrap(), Put::Exists);
    assert_eq!(store.put_once("log/b", bytes("0")).unwrap(), Put::Exists);
    assert_eq!(store.get("log/b").unwrap(), Some(bytes("0123456789")));
    assert_eq!(store.size("log/b").unwrap(), Some(10));

    // Again and again.
    for body in ["first", "second", ""] {
        store.put("notes/a", bytes(body)).unwrap();
        assert_eq!(store.get("notes/a").unwrap(), Some(bytes(body)));
    }
    store.delete("notes/a").unwrap();

    let ranges = [(2, 3, "234"), (8, 5, "89"), (9, 1, "9"), (10, 5, ""), (11, 5, ""), (3, 0, "")];
    for (offset, length, part) in ranges {
        assert_eq!(store.range("log/b", offset, length).unwrap(), Some(bytes(part)), "{offset}+{length}");
    }

    // An object without a byte, one of several pieces, and names with letters that mean something elsewhere.
    assert_eq!(store.put_once("log/a", Bytes::new()).unwrap(), Put::Done);
    assert_eq!(store.get("log/a").unwrap(), Some(Bytes::new()));
    assert_eq!(store.range("log/a", 0, 4).unwrap(), Some(Bytes::new()));
    let mut sink = Vec::new();
    assert_eq!(store.download("log/a", &mut sink).unwrap(), Some(0));
    let long: Bytes = (0..20_000_003_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    assert_eq!(store.put_once("log/c/long", long.clone()).unwrap(), Put::Done);
    assert_eq!(store.download("log/c/long", &mut sink).unwrap(), Some(long.len() as u64));
    assert!(sink == long);
    assert_eq!(store.download("log/c/none", &mut sink).unwrap(), None);
    let file = tempfile::NamedTempFile::new().unwrap();
    for body in [&long[..], b"short", b""] {
        std::fs::write(file.path(), body).unwrap();
        assert_eq!(store.upload("log/file", file.path()).unwrap(), body.len() as u64);
        assert!(store.get("log/file").unwrap().unwrap() == body);
    }
    store.delete("log/file").unwrap();
    let odd = "odd/(0_16B3740,0_16B3FF8] +=&%41~é.seg";
    assert_eq!(store.put_once(odd, bytes("odd")).unwrap(), Put::Done);
    assert_eq!(store.get(odd).unwrap(), Some(bytes("odd")));
    let listed = store.list("odd", None).unwrap();
    assert!(matches!(&listed[..], [Object { key, size_bytes: 3, .. }] if key == odd), "{listed:?}");

    // A listing is in order, with whole keys, and begins where it is told.
    assert_eq!(store.put_once("logs", bytes("no part of log")).unwrap(), Put::Done);
    let listed = |folder: &str, after: Option<&str>| {
        let objects = store.list(folder, after).unwrap();
        objects.into_iter().map(|object| (object.key, object.size_bytes)).collect::<Vec<_>>()
    };
    let all = [("log/a", 0), ("log/b", 10), ("log/c/long", 20_000_003)];
    let all = all.map(|(key, size)| (key.to_owned(), size));
    assert_eq!(listed("log", None), all);
    assert_eq!(listed("log", Some("log/a")), all[1..]);
    assert_eq!(listed("log", Some("log/aa")), all[1..]);
    assert_eq!(listed("log", Some("log/x")), []);
    assert_eq!(listed("", Some("log/x")), [("logs".to_owned(), 14), (odd.to_owned(), 3)]);

    // Replaced only by who read the last of it.
    let (_, first) = store.get_tagged("log/b").unwrap().unwrap();
    assert!(store.replace("log/b", bytes("second"), &first).unwrap());
    assert!(!store.replace("log/b", bytes("third"), &first).unwrap());
    let (now, second) = store.get_tagged("log/b").unwrap().unwrap();
    assert_eq!(now, bytes("second"));
    store.delete("log/b").unwrap();
    assert!(!store.replace("log/b", bytes("third"), &second).unwrap());
    assert_eq!(store.get("log/b").unwrap(), None);

    assert_eq!(store.probe().unwrap(), Support { put_once: true, replace: true });
    let left = store.list("", None).unwrap();
    assert!(left.iter().all(|object| !object.key.starts_with("probe")), "{left:?}");

    // Of many writers one wins, and all learn what is there.
    let written: Vec<(String, Put)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|n| {
                let (store, body) = (store.clone(), format!("writer {n}"));
                scope.spawn(move || (body.clone(), store.put_once("race", body.into()).unwrap()))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let winners: Vec<_> = written.iter().filter(|(_, put)| *put == Put::Done).collect();
    let [(body, _)] = winners[..] else { panic!("not one winner: {written:?}") };
    assert_eq!(store.get("race").unwrap().unwrap(), body.as_bytes());
}

#[test]
fn a_folder_is_a_store() {
    let (_folder, store) = folder_store();
    check(&store);
}

#[test]
fn a_bucket_is_a_store() {
    let moto = Moto::with_bucket("bucket");
    check(&open("s3://bucket/archive", moto.environment(), Patience::default()));
    // And with nothing before the keys.
    let store = open("s3://bucket", moto.environment(), Patience::default());
    assert!(store.get("archive/race").unwrap().is_some());
    assert_eq!(store.list("archive/odd", None).unwrap().len(), 1);
}

#[test]
fn a_bucket_is_reached_by_tls() {
    let moto = Moto::with_tls();
    let mut environment = moto.environment();
    for (_, value) in environment.iter_mut().filter(|(name, _)| name == "AWS_ENDPOINT_URL") {
        *value = value.replace("http:", "https:");
    }
    // Its certificate is one that nobody knows.
    let store = open("s3://bucket/archive", environment.clone(), BRIEF);
    assert_away(store.put_once("a", bytes("a")), &["ertificate"]);
    environment.push(("AWS_ALLOW_INVALID_CERTIFICATES".to_owned(), "true".to_owned()));
    let store = open("s3://bucket/archive", environment, BRIEF);
    assert!(store.get("a").unwrap_err().message.contains("NoSuchBucket"));
}

#[test]
fn the_server_that_misbehaves_behaves_else() {
    let bucket = Bucket::start();
    let store = bucket_store(&bucket);
    assert_eq!(store.put_once("log/a", bytes("a")).unwrap(), Put::Done);
    assert_eq!(store.put_once("log/b", bytes("b")).unwrap(), Put::Done);
    let keys: Vec<_> = store.list("log", None).unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["log/a", "log/b"]);
    assert_eq!(store.range("log/a", 0, 5).unwrap(), Some(bytes("a")));
    assert_eq!(store.probe().unwrap(), Support { put_once: true, replace: true });
    assert_eq!(bucket.count(), 2);
}

#[test]
fn a_store_is_called_and_dropped_anywhere() {
    let (_folder, store) = folder_store();
    let kinds = [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()];
    for (n, mut kind) in kinds.into_iter().enumerate() {
        let runtime = kind.enable_all().build().unwrap();
        let place = store.place().clone();
        runtime.block_on(async move {
            let inside = Store::open(&place).unwrap();
            let key = format!("inside/{n}");
            assert_eq!(inside.put_once(&key, bytes("x")).unwrap(), Put::Done);
            let other = inside.clone();
            tokio::spawn(async move { assert_eq!(other.size(&key).unwrap(), Some(1)) }).await.unwrap();
        });
    }
    assert_eq!(store.list("inside", None).unwrap().len(), 2);
}

#[test]
fn a_moment_of_overload_is_not_noticed() {
    let bucket = Bucket::start();
    let store = bucket_store(&bucket);
    let overload = || std::iter::repeat_n(Misdeed::Refuse(503, "SlowDown"), 3);
    bucket.misdeeds("PUT", overload());
    assert_eq!(store.put_once("a", bytes("a")).unwrap(), Put::Done);
    assert_eq!(bucket.requests("PUT"), 4);
    bucket.misdeeds("GET", overload());
    assert_eq!(store.get("a").unwrap(), Some(bytes("a")));
    bucket.misdeeds("GET", overload());
    assert_eq!(store.list("", None).unwrap().len(), 1);
    bucket.misdeeds("HEAD", overload());
    assert_eq!(store.size("a").unwrap(), Some(1));
    bucket.misdeeds("DELETE", overload());
    store.delete("a").unwrap();
    assert_eq!(bucket.count(), 0);
}

/// What a caller is told of a store that stays away.
#[track_caller]
fn assert_away<T: std::fmt::Debug>(done: Result<T, Fault>, parts: &[&str]) {
    let fault = done.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Retry, "{fault:?}");
    assert!(parts.iter().all(|part| fault.message.contains(part)), "{fault:?}");
}

#[test]
fn a_store_that_stays_away_is_a_retry() {
    let bucket = Bucket::start();
    let store = hasty(&bucket);
    for method in ["PUT", "GET", "HEAD", "DELETE"] {
        bucket.misdeeds(method, std::iter::repeat_n(Misdeed::Refuse(503, "SlowDown"), 100));
    }
    let started = Instant::now();
    let parts = ["s3://bucket/archive/a", "503 SlowDown: as told"];
    assert_away(store.put_once("a", bytes("a")), &parts);
    assert_away(store.get("a"), &parts);
    assert_away(store.delete("a"), &parts);
    assert_away(store.list("a", None), &parts);
    assert!(started.elapsed() < seconds(20), "{:?}", started.elapsed());
    // Nobody listens.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let environment = crate::support::http::s3_environment(&nobody.to_string());
    let store = open("s3://bucket/archive", environment, BRIEF);
    assert_away(store.put_once("a", bytes("a")), &["s3://bucket/archive/a can't be written", "refused"]);
}

#[test]
fn a_store_that_hangs_is_a_retry() {
    let moto = Moto::with_bucket("bucket");
    let store = open("s3://bucket/archive", moto.environment(), BRIEF);
    assert_eq!(store.put_once("a", bytes("a")).unwrap(), Put::Done);
    moto.running().signal(crate::support::Signal::STOP);
    assert_away(store.put_once("b", bytes("b")), &["no answer within 0.7 s"]);
    assert_away(store.get("a"), &["no answer within 0.7 s"]);
    moto.running().signal(crate::support::Signal::CONT);
    // What was asked meanwhile may have been done, which is no harm.
    assert_eq!(store.put_once("b", bytes("b")).unwrap(), Put::Done);
    wait_until(seconds(10), "both are listed", || store.list("", None).is_ok_and(|list| list.len() == 2));
}

#[test]
fn a_put_that_happened_is_done_whatever_was_answered() {
    let misdeeds = [
        vec![Misdeed::DoneBut(500, "InternalError")],
        vec![Misdeed::DoneBut(503, "SlowDown"), Misdeed::Refuse(503, "SlowDown"), Misdeed::Cut],
        vec![Misdeed::DoneThenCut],
        vec![Misdeed::DoneBut(409, "ConditionalRequestConflict")],
        vec![Misdeed::Cut],
        vec![Misdeed::Cut, Misdeed::DoneThenCut],
        vec![Misdeed::Refuse(409, "ConditionalRequestConflict")],
        vec![Misdeed::Refuse(500, "InternalError"), Misdeed::Refuse(409, "ConditionalRequestConflict")],
        // Slower than anyone waits: it lands while it is being tried again.
        vec![Misdeed::Late(Duration::from_millis(1200))],
    ];
    for misdeeds in misdeeds {
        let bucket = Bucket::start();
        let patience = Patience { retry: seconds(20), ..BRIEF };
        let store = open("s3://bucket/archive", bucket.environment(), patience);
        bucket.misdeeds("PUT", misdeeds.clone());
        assert_eq!(store.put_once("a", bytes("mine")).unwrap(), Put::Done, "{misdeeds:?}");
        assert_eq!(bucket.object("archive/a").unwrap(), b"mine", "{misdeeds:?}");
        assert_eq!(bucket.count(), 1);
    }
}

#[test]
fn another_writers_object_is_never_taken_for_ones_own() {
    let misdeeds = [
        vec![],
        vec![Misdeed::Refuse(500, "InternalError")],
        vec![Misdeed::Refuse(409, "ConditionalRequestConflict")],
        vec![Misdeed::Cut],
    ];
    for theirs in [&b"theirs"[..], b"yours"] {
        for misdeeds in &misdeeds {
            let bucket = Bucket::start();
            let store = bucket_store(&bucket);
            bucket.place("archive/a", theirs);
            bucket.misdeeds("PUT", misdeeds.clone());
            assert_eq!(store.put_once("a", bytes("ours..")).unwrap(), Put::Exists, "{misdeeds:?}");
            assert_eq!(bucket.object("archive/a").unwrap(), theirs);
        }
    }
}

#[test]
fn a_replacement_that_happened_is_done_whatever_was_answered() {
    let misdeeds = [
        Misdeed::DoneBut(500, "InternalError"),
        Misdeed::DoneBut(412, "PreconditionFailed"),
        Misdeed::DoneThenCut,
        Misdeed::Cut,
        Misdeed::Refuse(503, "SlowDown"),
    ];
    for misdeed in misdeeds {
        let bucket = Bucket::start();
        let store = bucket_store(&bucket);
        bucket.place("archive/a", b"old");
        let (_, tag) = store.get_tagged("a").unwrap().unwrap();
        bucket.misdeeds("PUT", [misdeed.clone()]);
        assert!(store.replace("a", bytes("new"), &tag).unwrap(), "{misdeed:?}");
        assert_eq!(bucket.object("archive/a").unwrap(), b"new");
        bucket.place("archive/a", b"another's");
        bucket.misdeeds("PUT", [misdeed.clone()]);
        assert!(!store.replace("a", bytes("newer"), &tag).unwrap(), "{misdeed:?}");
        assert_eq!(bucket.object("archive/a").unwrap(), b"another's");
    }
}

#[test]
fn a_store_that_ignores_conditions_is_known() {
    let bucket = Bucket::start();
    bucket.ignore_conditions();
    let store = bucket_store(&bucket);
    assert_eq!(store.probe().unwrap(), Support { put_once: false, replace: false });
    assert_eq!(bucket.count(), 0, "the trial's object is left behind");
}

#[test]
fn a_store_without_conditions_is_known() {
    let bucket = Bucket::start();
    let store = hasty(&bucket);
    bucket.misdeeds("PUT", std::iter::repeat_n(Misdeed::Refuse(501, "NotImplemented"), 20));
    assert_eq!(store.probe().unwrap(), Support { put_once: false, replace: false });
    let fault = store.put_once("a", bytes("a")).unwrap_err();
    assert_eq!(fault.remedy, Remedy::Stop, "{fault:?}");
}

#[test]
fn a_body_that_is_too_short_is_never_given() {
    let bucket = Bucket::start();
    let store = bucket_store(&bucket);
    let long: Bytes = vec![7; 300_000].into();
    bucket.place("archive/a", &long);
    // Asked for again, whole.
    bucket.misdeeds("GET", [Misdeed::Shorten(1), Misdeed::Shorten(200_000)]);
    assert!(store.get("a").unwrap().unwrap() == long);
    bucket.misdeeds("GET", [Misdeed::Shorten(1), Misdeed::Shorten(50_000)]);
    assert!(store.range("a", 100_000, 100_000).unwrap().unwrap() == long[100_000..200_000]);
    let mut sink = Vec::new();
    bucket.misdeeds("GET", [Misdeed::Shorten(1)]);
    assert_eq!(store.download("a", &mut sink).unwrap(), Some(300_000));
    assert!(sink == long);
    // Too short for ever.
    let store = hasty(&bucket);
    bucket.misdeeds("GET", std::iter::repeat_n(Misdeed::Shorten(1), 500));
    assert_away(store.get("a"), &["s3://bucket/archive/a can't be read"]);
    assert_away(store.range("a", 5, 5), &["s3://bucket/archive/a can't be read"]);
    assert_away(store.download("a", &mut sink), &["s3://bucket/archive/a can't be read"]);
}

#[test]
fn slow_answers_are_waited_for() {
    let bucket = Bucket::start();
    let store = hasty(&bucket);
    let late = || [Misdeed::Late(Duration::from_millis(300))];
    bucket.misdeeds("PUT", late());
    assert_eq!(store.put_once("a", bytes("a")).unwrap(), Put::Done);
    bucket.misdeeds("GET", late());
    assert_eq!(store.get("a").unwrap(), Some(bytes("a")));
    assert_eq!((bucket.requests("PUT"), bucket.requests("GET")), (1, 1));
}

#[test]
fn what_a_store_refuses_is_a_stop_with_a_hint() {
    let bucket = Bucket::start();
    let store = bucket_store(&bucket);
    let refusals = [
        (403, "AccessDenied"),
        (401, "Unauthorized"),
        (400, "ExpiredToken"),
        (404, "NoSuchBucket"),
        (301, "PermanentRedirect"),
    ];
    for (status, code) in refusals {
        for method in ["PUT", "GET"] {
            bucket.misdeeds(method, [Misdeed::Refuse(status, code)]);
        }
        let faults = [store.put_once("a", bytes("a")).unwrap_err(), store.get("a").unwrap_err()];
        for fault in faults {
            assert_eq!(fault.remedy, Remedy::Stop, "{status} {code}: {fault:?}");
            assert!(fault.hint.clone().unwrap().contains("AWS_SECRET_ACCESS_KEY"), "{fault:?}");
            assert!(fault.message.starts_with("s3://bucket/archive/a can't be "), "{fault:?}");
        }
    }
    // Each was asked once.
    assert_eq!((bucket.requests("PUT"), bucket.requests("GET")), (5, 5));

    let mut environment = bucket.environment();
    environment.retain(|(name, _)| name != "AWS_ALLOW_HTTP");
    let fault = open("s3://bucket/archive", environment, BRIEF).get("a").unwrap_err();
    assert_eq!(fault.remedy, Remedy::Stop, "{fault:?}");
    assert!(fault.hint.unwrap().contains("AWS_ALLOW_HTTP"));

    let moto = Moto::with_bucket("bucket");
    let store = open("s3://another/archive", moto.environment(), BRIEF);
    for fault in [store.put_once("a", bytes("a")).unwrap_err(), store.list("", None).unwrap_err()] {
        assert_eq!(fault.remedy, Remedy::Stop, "{fault:?}");
        assert!(fault.message.contains("NoSuchBucket"), "{fault:?}");
    }
}

#[test]
fn a_folder_that_may_not_be_written_is_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let store = open(&format!("file://{}/file", folder.path().display()), Vec::new(), Patience::default());
    let fault = store.put_once("a", bytes("a")).unwrap_err();
    assert_eq!(fault.remedy, Remedy::Stop, "{fault:?}");
}

#[test]
fn no_secret_is_ever_shown() {
    let bucket = Bucket::start();
    let address = bucket.address();
    let own = |variables: &[(&str, &str)]| {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let mut s3 = bucket.environment();
    s3.extend(own(&[("AWS_SESSION_TOKEN", "aSessionToken/+=")]));
    let endpoint = format!("http://{address}/account");
    let azure = |secret: (&str, &str)| {
        own(&[
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ENDPOINT", &endpoint),
            ("AZURE_ALLOW_HTTP", "true"),
            secret,
        ])
    };
    let sas = "?sv=2024-11-04&ss=b&srt=co&sp=rwl&sig=c2lnbmF0dXJlMDEyMzQ1%3D";
    let cases = [
        ("s3://bucket/archive", s3),
        ("az://bucket/archive", azure(("AZURE_STORAGE_SAS_TOKEN", sas))),
        ("az://bucket/archive", azure(("AZURE_STORAGE_ACCOUNT_KEY", "YWNjb3VudEtleTAxMjM0NTY3ODk="))),
        (
            "gs://bucket/archive",
            own(&[
                ("GOOGLE_BASE_URL", &format!("http://{address}")),
                ("GOOGLE_ALLOW_HTTP", "true"),
                ("GOOGLE_BEARER_TOKEN", "ya29.aBearerToken"),
            ]),
        ),
    ];
    let secrets = [
        "AKIATESTKEYID0000000",
        "verySecretAccessKey",
        "aSessionToken",
        "c2lnbmF0dXJlMDEyMzQ1",
        "YWNjb3VudEtleTAxMjM0NTY3ODk",
        "aBearerToken",
    ];
    for (place, environment) in cases {
        let store = open(place, environment, Patience { retry: Duration::ZERO, ..BRIEF });
        let misdeeds = [
            vec![Misdeed::Echo(403); 10],
            vec![Misdeed::Echo(400); 10],
            vec![Misdeed::Echo(503); 100],
            vec![Misdeed::Cut; 100],
            vec![Misdeed::Shorten(1); 100],
            vec![Misdeed::Late(Duration::from_millis(900)); 10],
        ];
        for misdeeds in misdeeds {
            let bucket_requests = bucket.requests("GET") + bucket.requests("PUT");
            for method in ["PUT", "GET", "HEAD"] {
                bucket.clear_misdeeds(method);
                bucket.misdeeds(method, misdeeds.clone());
            }
            let faults = [
                store.put_once("a", bytes("a")).err(),
                store.get("a").err(),
                store.list("", None).err(),
                store.size("a").err(),
            ];
            let shown = format!("{faults:?} {store:?}");
            assert!(faults.iter().any(Option::is_some), "{shown}");
            assert!(
                bucket.requests("GET") + bucket.requests("PUT") > bucket_requests,
                "{place} asked nobody: {shown}"
            );
            for secret in secrets {
                assert!(!shown.contains(secret), "{place}: {secret} is in {shown}");
            }
        }
    }
    // Settings that can't be read.
    for (name, value) in
        [("AWS_ALLOW_HTTP", "verySecretAccessKey"), ("AWS_SECRET_ACCESS_KEY", "verySecretAccessKey")]
    {
        let place = Place::parse("s3://bucket/archive").unwrap().unwrap();
        let fault = match Store::open_with(&place, &Access::new(own(&[(name, value)]), BRIEF)) {
            Ok(store) => store.get("a").unwrap_err(),
            Err(fault) => fault,
        };
        assert_eq!(fault.remedy, Remedy::Stop, "{fault:?}");
    }
}

#[test]
fn what_killed_writers_left_is_swept() {
    let (folder, store) = folder_store();
    assert_eq!(store.sweep().unwrap(), 0);
    store.put_once("log/a", bytes("a")).unwrap();
    let log = folder.path().join("archive/log");
    let day_old = std::time::SystemTime::now() - seconds(25 * 3600);
    for (name, time) in
        [("b#1", day_old), ("c#12", day_old), ("d#x", day_old), ("e#1", std::time::SystemTime::now())]
    {
        let file = std::fs::File::create(log.join(name)).unwrap();
        file.set_modified(time).unwrap();
    }
    assert_eq!(store.sweep().unwrap(), 2);
    let mut names: Vec<_> = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "d#x", "e#1"]);
    assert_eq!(store.list("log", None).unwrap().len(), 2);
}
