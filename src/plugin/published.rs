//! Which tables have been seen in the publication, and since when some are not.
//!
//! The catalog tells what is published now; a change is of then. A table that was seen in the publication counts as published
//! until a transaction comes that began after a look which did not find it there: rather too many changes than too few.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::TableName;
use crate::model::{VisibleXids, Xid};

/// What one archive's receivers have seen. Outlives them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Seen>", into = "Vec<Seen>")]
pub struct Published {
    /// With the first xid that a transaction could have when the table was first seen to be published no longer.
    tables: BTreeMap<TableName, Option<Xid>>,
}

/// A table as it is written down.
#[derive(Serialize, Deserialize)]
struct Seen {
    schema: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u32>,
}

impl Published {
    /// Takes note of tables that are published. Tells whether that was news.
    pub fn add(&mut self, tables: impl Iterator<Item = TableName>) -> bool {
        tables.fold(false, |news, table| news | (self.tables.insert(table, None) != Some(None)))
    }

    /// Takes note of all that a look found published. Tells whether that was news.
    pub fn see_all(&mut self, seen: &VisibleXids, found: BTreeSet<TableName>) -> bool {
        let mut news = false;
        for (table, until) in &mut self.tables {
            if until.is_none() && !found.contains(table) {
                *until = Some(seen.max);
                news = true;
            }
        }
        self.add(found.into_iter()) | news
    }

    /// Takes note of one table. Tells whether that was news.
    pub(super) fn see(&mut self, table: &TableName, seen: &VisibleXids, published: bool) -> bool {
        match self.tables.get_mut(table) {
            Some(until) if published => until.take().is_some(),
            Some(until @ None) => {
                *until = Some(seen.max);
                true
            }
            None if published => {
                self.tables.insert(table.clone(), None);
                true
            }
            _ => false,
        }
    }

    /// Whether the table may have been published when `xid` changed it, by what was seen before.
    pub(super) fn may_include(&self, table: &TableName, xid: Xid) -> bool {
        self.tables.get(table).is_some_and(|until| until.is_none_or(|until| xid.is_before(until)))
    }
}

impl From<Vec<Seen>> for Published {
    fn from(tables: Vec<Seen>) -> Published {
        let table = |seen: Seen| (TableName { schema: seen.schema, name: seen.name }, seen.until.map(Xid));
        Published { tables: tables.into_iter().map(table).collect() }
    }
}

impl From<Published> for Vec<Seen> {
    fn from(published: Published) -> Vec<Seen> {
        let seen = |(table, until): (TableName, Option<Xid>)| Seen {
            schema: table.schema,
            name: table.name,
            until: until.map(|xid| xid.0),
        };
        published.tables.into_iter().map(seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName { schema: "public".into(), name: name.into() }
    }

    fn at(xid: u32) -> VisibleXids {
        VisibleXids { min: Xid(xid), max: Xid(xid), running: Vec::new() }
    }

    #[test]
    fn a_table_counts_as_published_until_a_transaction_that_began_after_it_was_seen_not_to_be() {
        let mut published = Published::default();
        assert!(!published.may_include(&table("t"), Xid(5)));
        assert!(published.see(&table("t"), &at(10), true));
        assert!(!published.see(&table("t"), &at(11), true));
        assert!(published.may_include(&table("t"), Xid(500)));
        assert!(published.see(&table("t"), &at(20), false));
        assert!(!published.see(&table("t"), &at(30), false));
        assert!(published.may_include(&table("t"), Xid(19)) && !published.may_include(&table("t"), Xid(20)));
        assert!(published.see(&table("t"), &at(40), true));
        assert!(published.may_include(&table("t"), Xid(50)));
        assert!(!published.see(&table("never"), &at(40), false));
    }

    #[test]
    fn a_look_at_all_tells_what_is_published_no_longer() {
        let mut published = Published::default();
        assert!(published.see_all(&at(10), [table("a"), table("b")].into()));
        assert!(!published.see_all(&at(11), [table("b"), table("a")].into()));
        assert!(published.see_all(&at(20), [table("b")].into()));
        assert!(published.may_include(&table("a"), Xid(19)) && !published.may_include(&table("a"), Xid(20)));
        let text = serde_json::to_string(&published).unwrap();
        assert_eq!(text, r#"[{"schema":"public","name":"a","until":20},{"schema":"public","name":"b"}]"#);
        assert_eq!(serde_json::from_str::<Published>(&text).unwrap(), published);
    }
}
