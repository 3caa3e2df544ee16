//! What both plugins say, before it is known which tables are meant.

use std::borrow::Cow;
use std::fmt;

use crate::model::{Lsn, Xid};
use crate::pgoutput::Commit;

/// Text of a plugin is not what its source says it prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    pub what: &'static str,
    pub at: usize,
}

/// One message, all in the encoding of the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    Begin(Begin),
    Commit(Commit),
    Change(Change<'a>),
    /// Tables of one TRUNCATE: all of them (test_decoding), or one message for each (wal2json).
    Truncate {
        tables: Vec<TableName>,
        cascade: bool,
        restart_identity: bool,
    },
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: Cow<'a, [u8]>,
        content: Cow<'a, [u8]>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    pub xid: Xid,
    /// Where and when it commits, if the plugin tells it at the beginning.
    pub commit: Option<Commit>,
}

/// A table's name of the time of the change. Names are ASCII, or the database is in UTF-8: `setup` refuses others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change<'a> {
    pub table: TableName,
    pub kind: Kind<'a>,
    /// A TOASTed value that did not change is left out of the new row, as if the column were not there (wal2json). Otherwise
    /// it is named, and nulls are left out of the old row (test_decoding).
    pub leaves_out_unchanged: bool,
}

/// Rows are `None` where the plugin had none to print.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind<'a> {
    Insert {
        new: Option<Row<'a>>,
    },
    /// `old` is the key before, or the whole row before (REPLICA IDENTITY FULL), where it has been sent.
    Update {
        old: Option<Row<'a>>,
        new: Option<Row<'a>>,
    },
    Delete {
        old: Option<Row<'a>>,
    },
}

/// Columns in the order of the table.
pub type Row<'a> = Vec<Field<'a>>;

#[derive(Clone, Debug, PartialEq)]
pub struct Field<'a> {
    pub name: Cow<'a, str>,
    pub type_name: TypeName<'a>,
    pub value: FieldValue<'a>,
}

/// A type as the plugin names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeName<'a> {
    /// As `format_type` prints it, without modifier.
    Text(&'a str),
    Oid(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    Null,
    Unchanged,
    /// Null, or a number that the plugin could not print, such as NaN.
    Doubtful,
    /// As the type's output function gave it.
    Text(Cow<'a, [u8]>),
}
