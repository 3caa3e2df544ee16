//! An entry of a dump: what it makes, for which table, and when it may be made. Pure.

use std::collections::HashMap;

use super::toc::{Item, Section};
use crate::model::quote_ident;
use crate::pg::tables::shown_name;

/// When an entry's turn is, with respect to rows and changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// What rows need to be written: schemas, types, functions, tables, defaults.
    Before,
    /// Indexes, and the constraints that are indexes: once the rows are there.
    Index,
    /// What needs those, and what would be in the way of the rows: triggers, rules, policies.
    After,
    /// What holds only when the target is consistent: foreign keys, contents of materialized views, event triggers.
    Last,
}

impl Phase {
    pub const ALL: [Phase; 4] = [Phase::Before, Phase::Index, Phase::After, Phase::Last];
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub id: u32,
    /// As pg_dump calls it, such as `FK CONSTRAINT`.
    pub kind: String,
    pub schema: Option<String>,
    /// Of the object; with the table's before it where it is of a table, as with constraints and triggers.
    pub name: String,
    pub phase: Phase,
    /// Schema and name of the table that it belongs to, or is.
    pub table: Option<(String, String)>,
    /// Its SQL alters the table, for which nobody else may be at it.
    pub alters_table: bool,
    /// The entries that must be there before it.
    pub(super) needs: Vec<u32>,
    /// Of a comment, a label or privileges: the entry that they are of.
    pub(super) of: Option<u32>,
    /// Its whole SQL, of a kind that has nothing besides: neither an owner nor an access method.
    pub(super) script: Option<String>,
}

/// Kinds that hold columns, of their own or as a view.
const RELATIONS: [&str; 4] = ["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW"];

/// Kinds that belong to one of these. The other kinds stand for themselves.
const BELONGINGS: [&str; 15] = [
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "NOT NULL CONSTRAINT",
    "FK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "DEFAULT",
    "STATISTICS",
    "SEQUENCE",
    "MATERIALIZED VIEW DATA",
];

/// Kinds without an owner of their own (`_getObjectDescription` in `pg_backup_archiver.c`), of which a database may have very many.
const PLAIN: [&str; 8] = [
    "INDEX",
    "INDEX ATTACH",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "TRIGGER",
    "COMMENT",
    "MATERIALIZED VIEW DATA",
];

/// Kinds that say something of the dump or the database as a whole.
const SPECIAL: [&str; 5] = ["ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"];

impl Entry {
    pub(super) fn is_relation(&self) -> bool {
        RELATIONS.contains(&self.kind.as_str())
    }

    /// Whether rows are copied into it.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "TABLE" | "FOREIGN TABLE")
    }

    /// The same in every reading of one dump.
    pub fn key(&self) -> String {
        format!("{} {} {}.{}", self.id, self.kind, self.schema.as_deref().unwrap_or("-"), self.name)
    }

    /// For people, in one line whatever the names are.
    pub fn shown(&self) -> String {
        let kind = self.kind.to_lowercase();
        let shown = match (&self.table, &self.schema) {
            (Some((schema, table)), _) if !self.is_relation() => {
                let name = own_name(&self.name, table);
                format!(
                    "{kind} {}of {}",
                    name.map(|name| format!("{name} ")).unwrap_or_default(),
                    shown_name(schema, table)
                )
            }
            (_, Some(schema)) if self.of.is_none() && !self.name.contains('(') => {
                format!("{kind} {}", shown_name(schema, &self.name))
            }
            (_, Some(schema)) => format!("{kind} {} in schema {schema}", self.name),
            (_, None) => format!("{kind} {}", self.name),
        };
        shown.replace(['\n', '\r'], " ")
    }
}

/// What of `plain plain_pkey` is not the table's name.
fn own_name<'a>(name: &'a str, table: &str) -> Option<&'a str> {
    match name.strip_prefix(table) {
        Some("") => None,
        Some(rest) => Some(rest.strip_prefix(' ').unwrap_or(name)),
        None => Some(name),
    }
}

/// The entries that are to be made, in the order of the dump.
pub(super) fn entries(items: Vec<Item>, with_tablespaces: bool) -> Vec<Entry> {
    let items = items.into_iter().filter(|item| {
        // Privileges, comments and labels of the database are no part of what is in it.
        let of_database = item.section == Section::None && item.tag.starts_with("DATABASE ");
        item.section != Section::Data && !SPECIAL.contains(&item.kind.as_str()) && !of_database
    });
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for item in items {
        let needed: Vec<&Entry> = item.needs.iter().filter_map(|id| entries.get(*places.get(id)?)).collect();
        // Privileges of a column need those of its table too, and are of the table as well.
        let of = needed.first().filter(|_| item.section == Section::None);
        let of = of.map(|entry| entry.of.unwrap_or(entry.id));
        let entry = Entry {
            phase: phase(&item, &needed),
            table: table(&item, &needed),
            alters_table: item.kind == "CONSTRAINT" || item.definition.contains("\nALTER TABLE"),
            of,
            script: script(&item, with_tablespaces),
            id: item.id,
            kind: item.kind,
            schema: item.schema,
            name: item.tag,
            needs: item.needs,
        };
        places.insert(entry.id, entries.len());
        entries.push(entry);
    }
    entries
}

/// Never before what it needs: so a comment goes with its object, and an index of a materialized view that itself needs a primary key
/// comes after both.
fn phase(item: &Item, needed: &[&Entry]) -> Phase {
    let own = match (item.section, item.kind.as_str()) {
        (Section::PostData, "INDEX" | "CONSTRAINT") => Phase::Index,
        (Section::PostData, "FK CONSTRAINT" | "MATERIALIZED VIEW DATA" | "EVENT TRIGGER") => Phase::Last,
        (Section::PostData, _) => Phase::After,
        _ => Phase::Before,
    };
    needed.iter().map(|entry| entry.phase).fold(own, Phase::max)
}

fn script(item: &Item, with_tablespaces: bool) -> Option<String> {
    let place = match item.tablespace.as_deref().filter(|_| with_tablespaces) {
        Some("") => "SET default_tablespace = '';\n".to_owned(),
        Some(name) => format!("SET default_tablespace = {};\n", quote_ident(name)),
        None => String::new(),
    };
    PLAIN.contains(&item.kind.as_str()).then(|| format!("{place}{}\n", item.definition))
}

fn table(item: &Item, needed: &[&Entry]) -> Option<(String, String)> {
    let kind = item.kind.as_str();
    if RELATIONS.contains(&kind) {
        return Some((item.schema.clone()?, item.tag.clone()));
    }
    if item.section == Section::None {
        return needed.first()?.table.clone();
    }
    if !BELONGINGS.contains(&kind) {
        return None;
    }
    // The others that it needs are those that it refers to.
    let relations = || needed.iter().filter(|entry| entry.is_relation());
    let names_it = |entry: &&&Entry| {
        let rest = item.tag.strip_prefix(&entry.name);
        entry.schema == item.schema && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let found = relations().filter(names_it).max_by_key(|entry| entry.name.len());
    found.or_else(|| relations().next())?.table.clone()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Items from lines such as `3 post INDEX s.i: 1 2`, in which a name may hold blanks.
    pub(in crate::dump) fn items(lines: &str) -> Vec<Item> {
        let item = |line: &str| {
            let (head, needs) = line.trim().rsplit_once(':').unwrap();
            let (id, rest) = head.split_once(' ').unwrap();
            let (section, rest) = rest.split_once(' ').unwrap();
            let kind_end = rest.find(|c: char| !c.is_ascii_uppercase() && c != ' ').unwrap();
            let (kind, name) = rest.split_at(kind_end);
            let (schema, tag) = match name.split_once('.') {
                Some((schema, tag)) => (Some(schema.to_owned()), tag),
                None => (None, name),
            };
            Item {
                id: id.parse().unwrap(),
                kind: kind.trim().into(),
                schema,
                tag: tag.into(),
                section: match section {
                    "pre" => Section::PreData,
                    "data" => Section::Data,
                    "post" => Section::PostData,
                    _ => Section::None,
                },
                definition: format!("CREATE {tag};"),
                tablespace: kind.starts_with("INDEX").then(|| "f\"ar".to_owned()),
                needs: needs.split_whitespace().map(|id| id.parse().unwrap()).collect(),
            }
        };
        lines.trim().lines().map(item).collect()
    }

    #[test]
    fn each_has_its_time_and_table() {
        let entries = entries(
            items(
                "1 none ENCODING e:
             2 pre SCHEMA s:
             3 pre TABLE s.a: 2
             4 pre TABLE s.a b: 2
             5 none COMMENT s.COLUMN a.x: 3
             6 pre SEQUENCE s.a_id_seq: 2 3
             7 pre SEQUENCE OWNED BY s.a_id_seq: 6
             8 pre VIEW s.v: 3
             9 post CONSTRAINT s.a b a b_pkey: 4
             10 post MATERIALIZED VIEW s.m: 3 9
             11 post INDEX s.m_x: 10
             12 none COMMENT s.INDEX m_x: 11
             13 post INDEX s.i: 3
             14 none COMMENT s.INDEX i: 13
             15 post FK CONSTRAINT s.a a_b_fkey: 9 4 3
             16 none COMMENT s.CONSTRAINT a_b_fkey ON a: 15
             17 post RULE s.v _RETURN: 9 3 8
             18 post DEFAULT ACL d:
             19 post EVENT TRIGGER e:
             20 none ACL x.FUNCTION f(): 99
             21 post MATERIALIZED VIEW DATA s.m: 10 98
             22 data TABLE DATA s.a: 3
             23 none ACL x.DATABASE d:
             24 none ACL s.TABLE a: 3
             25 none ACL s.COLUMN a.x: 24 3",
            ),
            true,
        );
        let got: Vec<String> = entries
            .iter()
            .map(|entry| {
                let table = entry.table.as_ref().map_or("-", |(_, table)| table.as_str());
                format!("{} {:?} {table}", entry.id, entry.phase)
            })
            .collect();
        let expected = [
            "2 Before -",
            "3 Before a",
            "4 Before a b",
            "5 Before a",
            "6 Before a",
            "7 Before -",
            "8 Before v",
            "9 Index a b",
            "10 After m",
            "11 After m",
            "12 After m",
            "13 Index a",
            "14 Index a",
            "15 Last a",
            "16 Last a",
            "17 After v",
            "18 After -",
            "19 Last -",
            "20 Before -",
            "21 Last m",
            "24 Before a",
            "25 Before a",
        ];
        assert_eq!(got, expected);
        let shown = |id| entries.iter().find(|entry| entry.id == id).unwrap().shown();
        assert_eq!(shown(3), "table s.a");
        assert_eq!(shown(9), "constraint a b_pkey of s.\"a b\"");
        assert_eq!(shown(13), "index i of s.a");
        assert_eq!(shown(15), "fk constraint a_b_fkey of s.a");
        assert_eq!(shown(21), "materialized view data of s.m");
        assert_eq!(shown(20), "acl FUNCTION f() in schema x");
        assert_eq!(shown(19), "event trigger e");
        let of = |id| entries.iter().find(|entry| entry.id == id).unwrap().of;
        assert_eq!(
            [of(5), of(24), of(25), of(16), of(20), of(8)],
            [Some(3), Some(3), Some(3), Some(15), None, None]
        );
        let script = |id| entries.iter().find(|entry| entry.id == id).unwrap().script.as_deref();
        assert_eq!(script(13), Some("SET default_tablespace = \"f\"\"ar\";\nCREATE i;\n"));
        assert_eq!(script(9), Some("CREATE a b a b_pkey;\n"));
        assert_eq!(script(3), None);
    }
}
