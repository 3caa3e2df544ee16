//! `archive bases` and `archive drop-base`.

use serde_json::json;

use super::arguments::Everywhere;
use super::print;
use crate::archive::Archive;
use crate::copy;
use crate::model::Fault;

/// One object a line, as for every list.
pub(super) fn print(everywhere: &Everywhere, archive: &Archive) -> Result<(), Fault> {
    let (bases, unfinished) = (archive.bases()?, archive.unfinished_bases()?);
    if everywhere.json {
        for base in &bases {
            print::json(&json!({
                "base": base.begin.id,
                "state": "whole",
                "begun": base.begin.begun,
                "ended": base.ended,
                "start_lsn": base.begin.start,
                "through": base.through,
                "tables": base.tables.len(),
                "rows": base.rows(),
                "bytes": base.bytes(),
            }))?;
        }
        return unfinished.iter().try_for_each(|begin| {
            print::json(&json!({
                "base": begin.id,
                "state": "unfinished",
                "begun": begin.begun,
                "start_lsn": begin.start,
            }))
        });
    }
    if bases.is_empty() && unfinished.is_empty() {
        return print::line("no base: pgsluice clone --into-archive takes one");
    }
    let whole = bases.iter().map(|base| {
        vec![
            base.begin.id.to_string(),
            base.begin.begun.clone(),
            base.begin.start.to_string(),
            base.through.to_string(),
            base.tables.len().to_string(),
            base.rows().to_string(),
            print::size(base.bytes()),
        ]
    });
    let others = unfinished.iter().map(|begin| {
        let mut row = vec![begin.id.to_string(), begin.begun.clone(), begin.start.to_string()];
        row.push("not finished".into());
        row.resize(7, String::new());
        row
    });
    let header = ["base", "begun", "log from", "consistent from", "tables", "rows", "size"];
    print::line(&print::columns(&header, whole.chain(others)))
}

pub(super) fn drop(everywhere: &Everywhere, archive: &Archive, id: &str) -> Result<(), Fault> {
    let mut begun = archive.begun_bases()?;
    begun.retain(|begin| begin.id.to_string().starts_with(id));
    let [begin] = begun.as_slice() else {
        let what = if begun.is_empty() { "no base of that id" } else { "several bases of that id" };
        return Err(Fault::usage(format!("there is {what}: {id}")).hint("pgsluice archive bases prints them"));
    };
    let _lock = archive.lock_bases()?;
    copy::drop_base(archive, begin)?;
    print::report(everywhere.json, &json!({ "dropped": begin.id }), || format!("base {} removed", begin.id))
}
