//! DuckDB, as a Python package.

use std::path::PathBuf;
use std::process::Command;

use super::moto::stores_folder;

/// A Python that has it: the one that `tools/stores` installs, else the one at hand.
pub fn duckdb_python() -> Option<PathBuf> {
    let installed = stores_folder().join("duckdb/bin/python");
    let candidates = [installed, PathBuf::from("python3")];
    let has_it = |python: &PathBuf| {
        let imported = Command::new(python).args(["-c", "import duckdb"]).output();
        imported.is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(has_it)
}
