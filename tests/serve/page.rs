//! The page as a person sees it, in a real browser.

use serde_json::Value;

use super::{Served, TOKEN};
use crate::support::browser::Browser;
use crate::support::{Cluster, Pgsluice, Road, seconds, wait_until};

/// Where pictures for the documentation are to go; none are taken otherwise.
fn pictures() -> Option<std::path::PathBuf> {
    std::env::var_os("PGSLUICE_PICTURES").map(Into::into)
}

/// What must hold of the page however it looks: it fits, and nothing is complained of. Takes its picture.
#[track_caller]
fn looks_right(browser: &Browser, name: &str) {
    for (width, dark) in [(1440, false), (360, false), (1440, true), (360, true)] {
        browser.look(width, dark);
        let wide = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= u64::from(width), "{name} is {wide} pixels wide on {width}");
        let colour = browser.run("return getComputedStyle(document.body).backgroundColor");
        let is_dark = colour.as_str().unwrap().contains("(18, 24, 26)");
        assert_eq!(is_dark, dark, "{colour}");
        if let Some(folder) = pictures()
            && (!dark || name == "live")
        {
            let file = folder.join(format!("{name}-{width}{}.png", if dark { "-dark" } else { "" }));
            std::fs::write(file, browser.picture()).unwrap();
        }
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_shows_each_mode_as_status_tells_it() {
    let Some(browser) = Browser::start() else { return };
    let road = Road::pgbench();
    let file = road.program.folder().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let served = Served::start(&road, &["follow", "--token-file", file.to_str().unwrap()]);
    browser.open(&format!("http://{}/", served.address));
    let shows = |mode: &str| wait_until(seconds(30), mode, || browser.text("#mode") == mode);
    shows("live");
    let load = road.source.start_pgbench(&["-n", "-c", "2", "-T", "600", "-R", "300"]);
    wait_until(seconds(30), "the plots have something", || {
        browser.run("return document.querySelector('#plot-rate path.two').getAttribute('d').length").as_u64()
            > Some(40)
    });
    if pictures().is_some() {
        std::thread::sleep(seconds(25));
    }
    looks_right(&browser, "live");

    // By keyboard alone: to the token, then to the button behind it.
    browser.run("document.querySelector('#token').focus()");
    browser.press(TOKEN);
    browser.press("\u{e004}");
    assert_eq!(browser.run("return document.activeElement.id"), "toggle");
    browser.press("\u{e007}");
    shows("prefetch");
    wait_until(seconds(30), "something is pending", || {
        browser.text("[data-table='public.pgbench_history'] [data-key=pending]") != "0"
    });
    if pictures().is_some() {
        std::thread::sleep(seconds(40));
    }
    looks_right(&browser, "prefetch");

    // A target that is in the way of itself.
    let blocker = road.target.session();
    blocker.query("begin; lock table pgbench_history in access exclusive mode");
    browser.run("document.querySelector('#toggle').click()");
    shows("catchup");
    wait_until(seconds(60), "the alarm is on the page", || {
        browser.text("#alarm-list").contains("apply_blocked")
    });
    assert!(browser.text("#alarm-list code").contains("pg_terminate_backend"));
    looks_right(&browser, "catchup");
    blocker.query("commit");
    shows("live");
    drop(load);
    road.source.rests();

    // At rest each value is the one that status tells.
    let shown = |key: &str| browser.text(&format!("dl [data-key={key}]"));
    let plain = |value: &Value| value.to_string().trim_matches('"').to_owned();
    wait_until(seconds(60), "the page says what status says", || {
        let status = road.program.status();
        let (archive, applier) = (&status["archive"], &status["applier"]);
        let pairs = [
            ("first_lsn", &archive["first_lsn"]),
            ("last_lsn", &archive["last_lsn"]),
            ("segments", &archive["segments"]),
            ("transactions", &archive["transactions"]),
            ("changes", &archive["changes"]),
            ("replay_lsn", &applier["replay_lsn"]),
            ("applied_transactions", &applier["transactions"]),
            ("applied_changes", &applier["changes"]),
        ];
        let level = &archive["levels"][0];
        let level_shown = shown(&format!("below-{}", level["below_bytes"]));
        let level_is_shown = level_shown.split(", ").next() == Some(&plain(&level["segments"]));
        let same =
            level_is_shown && pairs.iter().all(|(key, value)| shown(key).replace(',', "") == plain(value));
        let tables = status["tables"].as_array().unwrap().clone();
        same && tables.iter().all(|table| {
            let row = format!("[data-table='{}']", plain(&table["name"]));
            let cell = |key: &str| browser.text(&format!("{row} [data-key={key}]")).replace(',', "");
            cell("received_events") == plain(&table["received_events"])
                && cell("applied_events") == plain(&table["applied_events"])
        })
    });
    // Tables are found and sorted.
    browser.run(
        "const f = document.querySelector('#find'); f.value = 'tell'; f.dispatchEvent(new Event('input'))",
    );
    assert_eq!(browser.run("return document.querySelectorAll('#tables-rows tr').length"), 1);

    // The process goes: the page says so.
    road.finish(served.running);
    shows("no answer");
}

#[test]
fn the_page_shows_a_copy_under_way() {
    let Some(browser) = Browser::start() else { return };
    let (source, target) = (Cluster::source(), Cluster::target());
    for cluster in [&source, &target] {
        cluster.run_script(
            "create table large(id int primary key, v text); create table small(id int primary key)",
        );
    }
    source.run_script(
        "insert into large select n, repeat('x', 100) from generate_series(1, 300000) n; insert into small values (1); analyze",
    );
    let program = Pgsluice::between(&source, &target);
    let road = Road { source, target, program };
    // A lock in the way of one table, so that there is time to look.
    let blocker = road.target.session();
    blocker.query("begin; lock table large in share mode");
    let served = Served::start(&road, &["clone", "--follow", "--no-schema"]);
    browser.open(&format!("http://{}/", served.address));
    wait_until(seconds(60), "the copy is shown", || browser.text("#copy-sum").starts_with("1 of 2 tables"));
    assert_eq!(road.program.status()["mode"], "prefetch", "nothing is applied while tables are copied");
    looks_right(&browser, "copy");
    blocker.query("commit");
    wait_until(seconds(60), "it is done", || browser.text("#copy-sum").contains("done"));
    assert!(browser.text("#copy-sum").contains("300,001 rows"), "{}", browser.text("#copy-sum"));
    served.running.terminate(seconds(30)).done();
}
