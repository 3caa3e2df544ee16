//! What a service manager hears of a run, by a socket of the test's own.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::{Road, Running, Signal, seconds, wait_until};

struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(path: &std::path::Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    /// All assignments that came, one after the other.
    fn hear(&mut self) -> &[String] {
        let mut bytes = [0; 4096];
        while let Ok(count) = self.socket.recv(&mut bytes) {
            self.heard.extend(String::from_utf8_lossy(&bytes[..count]).lines().map(str::to_owned));
        }
        &self.heard
    }

    fn count(&mut self, what: &str) -> usize {
        self.hear().iter().filter(|line| line.starts_with(what)).count()
    }
}

#[test]
fn systemd_hears_when_it_is_ready_how_it_stands_and_that_it_ends() {
    let road = Road::new("create table t(id int primary key)");
    let path = road.program.folder().join("notify");
    let mut manager = Manager::new(&path);
    let mut command = road.program.command(&["follow"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut follow = Running::spawn(command);
    wait_until(seconds(30), "it is ready", || manager.count("READY=1") == 1);
    road.change("insert into t values (1)");
    road.wait_for("select count(*) from t");
    wait_until(seconds(30), "the status tells the mode", || manager.count("STATUS=live, lag ") > 0);
    let beats = manager.count("WATCHDOG=1");
    wait_until(seconds(30), "it beats", || manager.count("WATCHDOG=1") > beats + 1);
    // Who does not run does not beat.
    follow.signal(Signal::STOP);
    manager.hear();
    let beats = manager.count("WATCHDOG=1");
    std::thread::sleep(seconds(3));
    assert_eq!(manager.count("WATCHDOG=1"), beats);
    follow.signal(Signal::CONT);
    wait_until(seconds(30), "it beats again", || manager.count("WATCHDOG=1") > beats);
    assert!(follow.is_running());
    assert_eq!(manager.count("STOPPING=1"), 0);
    follow.terminate(seconds(30)).done();
    assert_eq!(manager.hear().last().map(String::as_str), Some("STOPPING=1"));
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn a_service_manager_that_is_gone_stops_nothing() {
    let road = Road::new("create table t(id int primary key)");
    road.change("insert into t values (1)");
    let mut command = road.program.command(&["follow", "--endpos", "current"]);
    command.env("NOTIFY_SOCKET", road.program.folder().join("nobody"));
    Running::spawn(command).wait(seconds(60)).done();
    assert_eq!(road.target.value("select count(*) from t"), "1");
}
