//! A data folder as initdb makes it, made once for each version and copied for each cluster.

use std::fs::File;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use super::process::{as_server_owner, output, server_owner};
use super::versions::{Version, cache_folder};

/// Makes `data` (which must not exist) a new data folder, owned by the server's owner.
/// All copies have one system identifier; a `fresh` folder has its own.
pub fn make_data_folder(version: &Version, data: &Path, fresh: bool) {
    if fresh {
        return initialize(version, data);
    }
    let templates = cache_folder().join("templates");
    std::fs::create_dir_all(&templates).unwrap();
    let template = templates.join(version.full());
    if !template.exists() {
        // Tests are processes of their own; one makes the template, the others wait for it.
        let lock = File::create(templates.join("lock")).unwrap();
        lock.lock().unwrap();
        if !template.exists() {
            initialize(version, data);
            let partial = templates.join(format!("{}.partial", version.full()));
            let _ = std::fs::remove_dir_all(&partial);
            copy(data, &partial);
            std::fs::rename(&partial, &template).unwrap();
            return;
        }
    }
    copy(&template, data);
}

fn copy(from: &Path, to: &Path) {
    output(Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]));
}

fn initialize(version: &Version, data: &Path) {
    let parent = data.parent().unwrap();
    if let Some((user, group)) = server_owner() {
        chown(parent, Some(user), Some(group)).unwrap();
    }
    let mut initdb = as_server_owner(&version.bin.join("initdb"));
    initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
    output(initdb.arg("--pgdata").arg(data));
}
