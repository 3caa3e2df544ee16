//! `[[poll]]` of the file: which tables are polled, and how.

use serde::Deserialize;

use super::super::conduct::Delay;
use super::super::size::Size;
use crate::apply::After;
use crate::pg::pattern::Pattern;
use crate::poll::{Boundary, Method, Table};

/// A table as the file has it, validated.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct PollSettings(pub(super) Table, Option<After>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    table: String,
    method: Method,
    column: Option<String>,
    #[serde(default)]
    key: Vec<String>,
    every: Option<Delay>,
    boundary: Option<WrittenBoundary>,
    limit: Option<u64>,
    exact: Option<bool>,
    time_zone: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(rename = "where")]
    condition: Option<String>,
    queue: Option<String>,
    warn_size: Option<Size>,
    /// The applier's part.
    #[serde(default)]
    after: Vec<String>,
}

/// A length of time, or a number.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
struct WrittenBoundary(Boundary);

impl TryFrom<toml::Value> for WrittenBoundary {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<WrittenBoundary, String> {
        let wrong = || "is a length of time such as \"10min\", or a number of rows".to_owned();
        let boundary = match value {
            toml::Value::Integer(count) => {
                u64::try_from(count).map(Boundary::Numbers).map_err(|_| wrong())?
            }
            toml::Value::String(text) => Boundary::Time(text.parse::<Delay>()?.0),
            _ => return Err(wrong()),
        };
        Ok(WrittenBoundary(boundary))
    }
}

/// Schema and name of one table.
pub(super) fn table_name(text: &str) -> Result<(String, String), String> {
    let pattern: Pattern = text.parse().map_err(|error| format!("{error}"))?;
    let named = pattern.exact().filter(|(schema, name)| !schema.is_empty() && !name.is_empty());
    named.ok_or_else(|| format!("'{text}' is not one table such as public.orders"))
}

impl PollSettings {
    /// What the applier runs once the target shows a new snapshot of the table.
    pub(crate) fn after(&self) -> Option<&After> {
        self.1.as_ref()
    }
}

impl TryFrom<Written> for PollSettings {
    type Error = String;

    fn try_from(written: Written) -> Result<PollSettings, String> {
        let (schema, name) = table_name(&written.table).map_err(|why| format!("table: {why}"))?;
        let mut table = Table::new(&schema, &name, written.method);
        table.column = written.column;
        table.key = written.key;
        table.every = written.every.map_or(table.every, |every| every.0);
        table.boundary = written.boundary.map(|boundary| boundary.0);
        table.limit = written.limit;
        table.exact = written.exact;
        table.time_zone = written.time_zone;
        table.columns = written.columns;
        table.condition = written.condition;
        let queue = written.queue.as_deref().map(table_name).transpose();
        table.queue = queue.map_err(|why| format!("queue: {why}"))?;
        if let Some(size) = written.warn_size {
            if table.method != Method::Snapshot {
                return Err(format!("warn-size means nothing to method {}", table.method.name()));
            }
            table.warn_bytes = size.0;
        }
        if !written.after.is_empty() && table.method != Method::Snapshot {
            return Err(format!("after means nothing to method {}", table.method.name()));
        }
        table.check()?;
        let name = (table.schema.clone(), table.name.clone());
        let after = Some(After { table: name, statements: written.after });
        Ok(PollSettings(table, after.filter(|after| !after.statements.is_empty())))
    }
}
