//! A wrong clock for a server: the library faketime, where it is installed.

use std::path::PathBuf;

/// The library that a server is started with.
pub struct WrongClock(pub(super) PathBuf);

impl WrongClock {
    /// None where it is missing; tools/test installs it, so that its absence is a fault in continuous integration.
    pub fn find() -> Option<WrongClock> {
        let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = folders
            .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
            .find(|library| library.exists());
        if library.is_none() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no libfaketime");
            println!("skipped: there is no libfaketime, which tools/test installs");
        }
        library.map(WrongClock)
    }
}
