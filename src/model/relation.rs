//! A table as the source described it at one point of the log.

/// What a published table sends of the old row on UPDATE and DELETE (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

impl ReplicaIdentity {
    /// By the letter in `pg_class`.
    pub fn from_catalog(letter: &str) -> Option<ReplicaIdentity> {
        match letter {
            "d" => Some(ReplicaIdentity::Default),
            "n" => Some(ReplicaIdentity::Nothing),
            "f" => Some(ReplicaIdentity::Full),
            "i" => Some(ReplicaIdentity::Index),
            _ => None,
        }
    }
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Part of the replica identity. With [`ReplicaIdentity::Full`] every column is.
    pub key: bool,
    /// The type's OID at the source; only the built-in ones mean the same elsewhere.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
}

/// A Relation message: name and columns of the table whose changes follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}
