//! Which entries of a dump are left out, with some of the tables or with a schema: all that can't be without what is left out. Pure.

use std::collections::{HashMap, HashSet};

use super::entry::Entry;
use crate::model::Fault;
use crate::pg::pattern::Pattern;

/// What is left out, with the entry that it can't be without; none where it was not chosen.
type LeftOut = HashMap<u32, Option<u32>>;

/// The schema in which our own things are, on either side.
const OURS: &str = "pgsluice";

/// Takes out our own schema and what needs it, such as the event triggers that capture DDL; and comments of extensions.
pub(super) fn without_ours(entries: Vec<Entry>) -> Vec<Entry> {
    let is_ours = |entry: &&Entry| {
        entry.schema.as_deref() == Some(OURS)
            || (entry.kind == "SCHEMA" && entry.name == OURS)
            // An extension brings its own, and only its owner may write another one.
            || (entry.kind == "COMMENT" && entry.name.starts_with("EXTENSION "))
    };
    let left_out = leave_out(&entries, entries.iter().filter(is_ours).map(|entry| entry.id));
    entries.into_iter().filter(|entry| !left_out.contains_key(&entry.id)).collect()
}

/// Takes out the tables that are not chosen and what needs them; gives what stays, and a line for each thing that was left out. What is said
/// of a partitioned table is said of its partitions, as [`crate::pg::pattern::choose`] does.
pub(super) fn choose(
    entries: Vec<Entry>,
    wanted: &[Pattern],
    excluded: &[Pattern],
) -> Result<(Vec<Entry>, Vec<String>), Fault> {
    let parents = parents(&entries);
    let named = |patterns: &[Pattern], entry: &Entry| {
        let matches = |entry: &Entry| {
            let schema = entry.schema.as_deref().unwrap_or_default();
            patterns.iter().any(|pattern| pattern.matches(schema, &entry.name))
        };
        let mut next = Some(entry);
        while let Some(entry) = next {
            if matches(entry) {
                return true;
            }
            next = parents.get(&entry.id).copied();
        }
        false
    };
    let chosen = |entry: &Entry| (wanted.is_empty() || named(wanted, entry)) && !named(excluded, entry);
    let others = entries.iter().filter(|entry| entry.is_table() && !chosen(entry)).map(|entry| entry.id);
    let left_out = leave_out(&entries, others);

    let by_id: HashMap<u32, &Entry> = entries.iter().map(|entry| (entry.id, entry)).collect();
    let tables: HashSet<_> = entries
        .iter()
        .filter(|entry| entry.is_relation() && left_out.contains_key(&entry.id))
        .filter_map(|entry| entry.table.as_ref())
        .collect();
    let mut lines = Vec::new();
    for entry in &entries {
        let Some(cause) = left_out.get(&entry.id) else { continue };
        let cause = cause.and_then(|id| by_id.get(&id));
        if let (true, Some(cause)) = (entry.is_table(), cause) {
            let message =
                format!("{} was chosen, but can't be made without {}", entry.shown(), cause.shown());
            return Err(Fault::usage(message).hint("choose both, or neither"));
        }
        // What goes without saying: what belongs to a table that is told, and what joins indexes of tables that aren't joined.
        let belongs =
            !entry.is_relation() && entry.table.as_ref().is_some_and(|table| tables.contains(table));
        let is_implied = matches!(entry.kind.as_str(), "INDEX ATTACH" | "SEQUENCE OWNED BY");
        if belongs || is_implied || entry.of.is_some() {
            continue;
        }
        lines.push(match cause {
            Some(cause) => format!("{}, which needs {}", entry.shown(), cause.shown()),
            None => entry.shown(),
        });
    }
    let kept = entries.into_iter().filter(|entry| !left_out.contains_key(&entry.id)).collect();
    Ok((kept, lines))
}

/// Of each partition the table that it is a partition of.
fn parents(entries: &[Entry]) -> HashMap<u32, &Entry> {
    let by_id: HashMap<u32, &Entry> = entries.iter().map(|entry| (entry.id, entry)).collect();
    let attached = |entry: &Entry| {
        let tables = entry.needs.iter().filter_map(|id| by_id.get(id)).filter(|entry| entry.is_table());
        let (mut own, mut others): (Vec<&Entry>, Vec<&Entry>) =
            tables.partition(|table| (&table.schema, &table.name) == (&entry.schema, &entry.name));
        Some((own.pop()?.id, others.pop()?))
    };
    entries.iter().filter(|entry| entry.kind == "TABLE ATTACH").filter_map(attached).collect()
}

/// Everything that can't be without these.
fn leave_out(entries: &[Entry], these: impl Iterator<Item = u32>) -> LeftOut {
    let by_id: HashMap<u32, &Entry> = entries.iter().map(|entry| (entry.id, entry)).collect();
    let parents = parents(entries);
    let is_keyed = |entry: &Entry| matches!(entry.kind.as_str(), "INDEX" | "CONSTRAINT");
    let can_be_without = |entry: &Entry, needed: &Entry| {
        // A partition is made as a table of its own, and so are its indexes; they are attached later.
        parents.get(&entry.id).is_some_and(|parent| parent.id == needed.id)
            || (is_keyed(entry) && is_keyed(needed))
    };
    let mut left_out: LeftOut = these.map(|id| (id, None)).collect();
    loop {
        let before = left_out.len();
        for entry in entries {
            let needed = || entry.needs.iter().filter_map(|id| by_id.get(id));
            let mut missing =
                needed().filter(|needed| left_out.contains_key(&needed.id) && !can_be_without(entry, needed));
            let Some(cause) = missing.next().map(|cause| cause.id) else { continue };
            left_out.entry(entry.id).or_insert(Some(cause));
            // A view that needs a primary key is made empty at first, and gets its query as a rule.
            if entry.kind == "RULE" && entry.name.ends_with(" _RETURN") {
                for view in needed().filter(|view| view.kind == "VIEW" && view.table == entry.table) {
                    left_out.entry(view.id).or_insert(Some(cause));
                }
            }
        }
        if left_out.len() == before {
            return left_out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{entries, tests::items};
    use super::*;

    const SHOP: &str = "2 pre SCHEMA s:
        3 pre TABLE s.root: 2
        4 pre TABLE s.root_1: 2 3
        5 pre TABLE s.root_2: 2 3
        6 pre TABLE ATTACH s.root_1: 4 3
        7 pre TABLE ATTACH s.root_2: 3 5
        8 pre TABLE s.a: 2
        9 pre TABLE s.b: 2
        10 pre SEQUENCE s.b_id_seq: 9
        11 pre SEQUENCE OWNED BY s.b_id_seq: 10
        12 pre DEFAULT s.a id: 8 10
        13 pre FUNCTION s.f(integer): 9
        14 pre VIEW s.v:
        15 pre VIEW s.w: 14
        16 none COMMENT s.VIEW w: 15
        20 post CONSTRAINT s.root root_pkey: 3
        21 post CONSTRAINT s.root_1 root_1_pkey: 20 4
        22 post INDEX ATTACH s.root_1_pkey: 21 20 4 3
        23 post CONSTRAINT s.b b_pkey: 9
        24 post FK CONSTRAINT s.a a_b_fkey: 23 9 8
        25 post RULE s.v _RETURN: 23 9 14
        26 post TRIGGER s.a t: 13 8";

    #[track_caller]
    fn check(wanted: &[&str], excluded: &[&str], gone: &[u32], told: &[&str]) {
        let parse = |texts: &[&str]| -> Vec<Pattern> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let all = entries(items(SHOP), true);
        let ids: Vec<u32> = all.iter().map(|entry| entry.id).collect();
        let (kept, lines) = choose(all, &parse(wanted), &parse(excluded)).unwrap();
        let kept: Vec<u32> = kept.iter().map(|entry| entry.id).collect();
        let left: Vec<u32> = ids.into_iter().filter(|id| !kept.contains(id)).collect();
        assert_eq!(left, gone);
        assert_eq!(lines, told);
    }

    #[test]
    fn what_needs_a_table_goes_with_it() {
        check(&[], &[], &[], &[]);
        check(
            &[],
            &["s.b"],
            &[9, 10, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26],
            &[
                "table s.b",
                "default id of s.a, which needs sequence b_id_seq of s.b",
                "function f(integer) in schema s, which needs table s.b",
                "view s.v, which needs constraint b_pkey of s.b",
                "view s.w, which needs view s.v",
                "fk constraint a_b_fkey of s.a, which needs constraint b_pkey of s.b",
                "trigger t of s.a, which needs function f(integer) in schema s",
            ],
        );
    }

    #[test]
    fn a_partition_stands_alone() {
        check(&[], &["s.root_2"], &[5, 7], &["table s.root_2"]);
        check(
            &["s.root_1", "s.a", "s.b"],
            &[],
            &[3, 5, 6, 7, 20, 22],
            &["table s.root", "table s.root_2", "table attach of s.root_1, which needs table s.root"],
        );
        check(
            &["s.root"],
            &["s.a", "s.b"],
            &[8, 9, 10, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26],
            &[
                "table s.a",
                "table s.b",
                "function f(integer) in schema s, which needs table s.b",
                "view s.v, which needs constraint b_pkey of s.b",
                "view s.w, which needs view s.v",
            ],
        );
    }

    #[test]
    fn a_chosen_table_that_needs_another_is_refused() {
        let heirs = "2 pre TABLE s.old: \n3 pre TABLE s.heir: 2";
        let wanted = ["s.heir".parse().unwrap()];
        let fault = choose(entries(items(heirs), true), &wanted, &[]).unwrap_err();
        assert_eq!(fault.message, "table s.heir was chosen, but can't be made without table s.old");
    }

    #[test]
    fn our_own_things_are_no_part_of_it() {
        let captured = "2 pre SCHEMA pgsluice:
            3 pre FUNCTION pgsluice.capture_ddl(): 2
            4 pre TABLE pgsluice.progress: 2
            5 none ACL SCHEMA pgsluice: 2
            6 pre TABLE s.t:
            7 post CONSTRAINT pgsluice.progress progress_pkey: 4
            8 post EVENT TRIGGER capture: 3";
        let kept = without_ours(entries(items(captured), true));
        assert_eq!(kept.iter().map(|entry| entry.id).collect::<Vec<_>>(), [6]);
    }
}
