//! What the planner must know of a table on the target.

use super::fit::Refusal;
use super::types::ColumnType;

/// What was found on the target for a relation of the log.
#[derive(Clone, Debug)]
pub struct Found {
    /// None where the target has no table of that name.
    pub table: Option<TargetTable>,
    /// The types of the relation's columns, in its order; none where the log does not tell one.
    pub arriving: Vec<Option<ColumnType>>,
    /// The table is not the one that is meant: every change is refused.
    pub refused: Option<Refusal>,
}

/// A table of the target, as its catalog describes it.
#[derive(Clone, Debug)]
pub struct TargetTable {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// A partitioned table: rows live in its partitions, so `ONLY` must not be said.
    pub partitioned: bool,
    /// Schema and name of the topmost table that it is a partition of: columns are added there.
    pub root: Option<(String, String)>,
    pub columns: Vec<TargetColumn>,
    /// Something looks at each change of a row: a trigger or rule that is enabled for replicated changes.
    pub fires: bool,
    /// Columns of the primary key, if it is checked at once (not deferrable).
    pub primary_key: Vec<String>,
    /// Sets of columns of which no two rows have the same values at any time.
    pub unique: Vec<Vec<String>>,
    /// What keeps its rows, or those of its partitions, apart in any way: the columns of each index that does, none where it is not
    /// over plain columns alone.
    pub apart: Vec<Option<Vec<String>>>,
    /// The tables (OIDs) that a TRUNCATE of it empties: itself and its partitions.
    pub family: Vec<u32>,
    /// Others that refer to one of these by a foreign key.
    pub referring: Vec<Referring>,
}

/// A table of the target that refers to another one by a foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referring {
    pub oid: u32,
    /// For people.
    pub name: String,
}

#[derive(Clone, Debug)]
pub struct TargetColumn {
    pub name: String,
    /// The type, or that which a domain is over, as SQL names it, schema-qualified where it isn't built in, without modifier: a cast
    /// to it must not cut values off, as one to `character`, which is `character(1)`, or to a domain over one would.
    pub type_name: String,
    pub column_type: ColumnType,
    /// Its OID, or that of the domain.
    pub declared_oid: u32,
    /// A cast from text to it takes what the type's own input takes.
    pub castable: bool,
    /// Its values have a binary form, in which they may be handed to the column.
    pub has_send: bool,
    /// NOT NULL, and nothing fills it in: a row can't be inserted without it.
    pub must_be_given: bool,
    pub generated: Generated,
    pub identity: Identity,
    pub equality: Equality,
}

/// Whether the target computes the column itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    No,
    Yes,
}

/// `GENERATED … AS IDENTITY`. An ALWAYS column can be inserted (overriding) but never updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    No,
    ByDefault,
    Always,
}

/// How values of a column's type are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Equality {
    /// Schema of the type's `=` where it isn't `pg_catalog`, which the pinned search path would not find.
    pub operator_schema: Option<String>,
    /// Equal values have equal text (integers, text; not numeric, float, citext), so `=` finds the exact row.
    pub exact: bool,
    /// A composite type: its `=` is that of all records, from which a value can't tell its type.
    pub record: bool,
}

/// Those that refer to some of these tables and are not emptied with them: PostgreSQL refuses to truncate without them.
pub(super) fn referring<'t>(targets: &[&'t TargetTable]) -> Vec<&'t Referring> {
    let is_emptied = |oid: u32| targets.iter().any(|target| target.family.contains(&oid));
    targets.iter().flat_map(|target| &target.referring).filter(|other| !is_emptied(other.oid)).collect()
}

impl TargetTable {
    pub fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}
