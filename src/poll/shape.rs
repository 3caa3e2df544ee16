//! What a table or view is, as the source's catalog says it to anybody.

use super::limit::Mode;
use super::{Boundary, Table, sql};
use crate::model::{Column, Fault, Relation, ReplicaIdentity};
use crate::pg::{Pipeline, quote_literal};
use crate::pgoutput::Message;

/// What a control column counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Number,
    /// `timestamp with time zone`.
    Instant,
    /// `timestamp without time zone`, in some zone.
    Local,
    /// `date`, in some zone.
    Day,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ShapeColumn {
    name: String,
    type_oid: u32,
    type_modifier: i32,
    /// Where it is a domain, what that is of.
    base_oid: u32,
    /// Schema and name of a type that is not built in; of a domain, those of its base type.
    user_type: Option<(String, String)>,
    is_generated: bool,
}

/// A relation of the source, with those columns that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) oid: u32,
    /// `pg_class.relkind`.
    kind: char,
    /// Others inherit from it.
    has_heirs: bool,
    columns: Vec<ShapeColumn>,
}

fn query(schema: &str, name: &str) -> String {
    format!(
        "SELECT c.oid::text, c.relkind::text, c.relhassubclass::text, a.attname::text, a.atttypid::text, a.atttypmod::text,
                b.oid::text, b.nspname, b.typname, (coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '')::text
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           LEFT JOIN LATERAL (
                WITH RECURSIVE base AS (
                     SELECT t.oid, t.typtype, t.typbasetype, t.typname, t.typnamespace FROM pg_type t WHERE t.oid = a.atttypid
                      UNION ALL
                     SELECT t.oid, t.typtype, t.typbasetype, t.typname, t.typnamespace
                       FROM base JOIN pg_type t ON t.oid = base.typbasetype WHERE base.typtype = 'd')
                SELECT base.oid, s.nspname::text, base.typname::text FROM base JOIN pg_namespace s ON s.oid = base.typnamespace
                 WHERE base.typtype <> 'd') b ON true
          WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          ORDER BY a.attnum",
        quote_literal(schema),
        quote_literal(name)
    )
}

/// Types from here on are not the same on every server (`FirstGenbkiObjectId`).
const OWN_TYPES: u32 = 10_000;

impl Shape {
    pub(super) async fn read(source: &mut Pipeline, table: &Table) -> Result<Shape, Fault> {
        let rows = source.simple(&query(&table.schema, &table.name)).await?;
        let (mut shape, mut columns) = (None, Vec::new());
        for row in rows {
            let mut fields = row.into_iter();
            let mut text = || fields.next().flatten();
            let mut parse = || -> Option<ShapeColumn> {
                let oid: u32 = text()?.parse().ok()?;
                let kind = text()?.chars().next()?;
                let has_heirs = text()? == "true";
                shape = Some((oid, kind, has_heirs));
                let name = text()?;
                let type_oid = text()?.parse().ok()?;
                let type_modifier = text()?.parse().ok()?;
                let base_oid = text()?.parse().ok()?;
                let user_type = text().zip(text()).filter(|_| type_oid >= OWN_TYPES);
                let is_generated = text()? == "true";
                Some(ShapeColumn { name, type_oid, type_modifier, base_oid, user_type, is_generated })
            };
            let column = parse();
            columns.push(column.ok_or_else(|| Fault::stop("the source's catalog makes no sense"))?);
        }
        let Some((oid, kind, has_heirs)) = shape else {
            return Err(Fault::stop(format!("there is no table or view {} on the source", table.shown()))
                .sqlstate("42P01")
                .hint("write it as schema.name, as the source's catalog has it"));
        };
        if let Some(missing) = (table.columns.iter())
            .chain(&table.column)
            .chain(&table.key)
            .find(|name| !columns.iter().any(|column| column.name == **name))
        {
            return Err(Fault::stop(format!("{} has no column {missing}", table.shown())).sqlstate("42703"));
        }
        let is_named = |name: &String| table.columns.contains(name);
        // A generated column is the target's to generate, unless the target's table is made of what is read.
        let is_left_out =
            |column: &ShapeColumn| column.is_generated && table.method != super::Method::Snapshot;
        columns.retain(|column| match table.columns.is_empty() {
            true => {
                let is_asked =
                    table.column.as_ref() == Some(&column.name) || table.key.contains(&column.name);
                !is_left_out(column) || is_asked
            }
            false => is_named(&column.name),
        });
        let is_read = |name: &&String| columns.iter().any(|column| column.name == **name);
        if let Some(lacking) = table.key.iter().find(|name| !is_read(name)) {
            return Err(Fault::usage(format!(
                "column {lacking} is part of the key of {} and is not read",
                table.shown()
            ))
            .hint("name it in columns"));
        }
        Ok(Shape { oid, kind, has_heirs, columns })
    }

    /// Whether a lock keeps it from being emptied or rewritten behind a snapshot.
    pub(super) fn can_be_locked(&self, server_version_num: u32) -> bool {
        match self.kind {
            'r' | 'p' => true,
            'v' => server_version_num >= 110_000,
            _ => false,
        }
    }

    /// Refuses a table of whose rows a trigger would not tell.
    pub(super) fn refuse_heirs(&self, table: &Table) -> Result<(), Fault> {
        match self.kind {
            'r' if !self.has_heirs => Ok(()),
            'p' => {
                tracing::warn!(
                    table = table.shown(),
                    "a partition that is truncated, attached or detached by itself is not in the queue"
                );
                Ok(())
            }
            _ => Err(Fault::usage(format!(
                "{} can't have a queue: triggers would not tell of all its rows",
                table.shown()
            ))
            .hint(
                "a queue is for a table without children; poll the children one by one, or by another method",
            )),
        }
    }

    /// Whether its numbers may come of a sequence that nobody can see from here.
    pub(super) fn hides_sequences(&self, server_version_num: u32) -> bool {
        !matches!(self.kind, 'r' | 'p') || server_version_num < 100_000
    }

    /// Whether the server counts its changes, and all of them as its own.
    pub(super) fn is_counted(&self) -> bool {
        self.kind == 'r' && !self.has_heirs
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Quoted, for SQL.
    pub(super) fn list(&self) -> String {
        sql::list(self.names())
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.names().position(|other| other == name)
    }

    /// What the control column counts.
    pub(super) fn control(&self, table: &Table) -> Result<Control, Fault> {
        let name = table.column.as_deref().unwrap_or_default();
        let column = self.columns.iter().find(|column| column.name == name);
        let control = match column.map(|column| column.base_oid) {
            Some(20 | 21 | 23 | 1700) => Control::Number,
            Some(1184) => Control::Instant,
            Some(1114) => Control::Local,
            Some(1082) => Control::Day,
            _ => {
                return Err(Fault::usage(format!(
                    "column {name} of {} is no control column: neither a time nor a whole number",
                    table.shown()
                ))
                .hint("name a column of type timestamptz, timestamp, date, smallint, integer, bigint or numeric"));
            }
        };
        let mismatch = match (table.boundary, control == Control::Number) {
            (Some(Boundary::Time(_)), true) => Some("a number is no length of time: boundary = 10"),
            (Some(Boundary::Numbers(_)), false) => Some("a time is no number: boundary = \"10min\""),
            _ => None,
        };
        if let Some(mismatch) = mismatch {
            let shown = table.shown();
            return Err(
                Fault::usage(format!("the boundary of {shown} does not fit column {name}")).hint(mismatch)
            );
        }
        let is_local = matches!(control, Control::Local | Control::Day);
        match (&table.time_zone, is_local) {
            (None, true) => Err(Fault::usage(format!(
                "column {name} of {} has local times, and nobody says of which zone",
                table.shown()
            ))
            .hint("say in which zone they are written: time-zone = \"Europe/Berlin\"")),
            (Some(_), false) => Err(Fault::usage(format!(
                "time-zone is for local times, and column {name} of {} has none",
                table.shown()
            ))
            .hint("leave out time-zone")),
            _ => Ok(control),
        }
    }

    /// Its definition as the log has it, with the types that it names.
    pub(super) fn messages(&self, table: &Table) -> Vec<Message<'static>> {
        let mut messages: Vec<Message<'static>> = Vec::new();
        let mut told = Vec::new();
        for column in &self.columns {
            if let Some((schema, name)) = &column.user_type
                && !told.contains(&column.type_oid)
            {
                told.push(column.type_oid);
                messages.push(Message::Type {
                    oid: column.type_oid,
                    schema: schema.clone(),
                    name: name.clone(),
                });
            }
        }
        let has_key = table.method.has_key();
        let columns = self.columns.iter().map(|column| Column {
            name: column.name.clone(),
            key: has_key && table.key.contains(&column.name),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        });
        messages.push(Message::Relation(Relation {
            oid: self.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            identity: if has_key { ReplicaIdentity::Default } else { ReplicaIdentity::Nothing },
            columns: columns.collect(),
        }));
        messages
    }

    /// A hash of all that the log says of it.
    pub(super) fn definition(&self, table: &Table) -> String {
        let text = format!("{} {:?} {:?}", self.oid, self.columns, table.condition);
        blake3::hash(text.as_bytes()).to_hex().chars().take(32).collect()
    }
}

/// How many numbers at a time the sequence gives that a column's default asks; none where there is none, or none that is known.
pub(super) async fn sequence_cache(source: &mut Pipeline, table: &Table) -> Result<Option<u64>, Fault> {
    if source.server_version_num() < 100_000 {
        return Ok(None);
    }
    let column = table.column.as_deref().unwrap_or_default();
    let sql = format!(
        "SELECT max(s.seqcache)::text
           FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
           JOIN pg_depend d ON (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid)
                            OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum)
           JOIN pg_sequence s ON s.seqrelid IN (CASE WHEN d.refobjsubid = 0 THEN d.refobjid END, d.objid)
          WHERE a.attrelid = to_regclass({})::oid AND a.attname = {}",
        quote_literal(&table.quoted()),
        quote_literal(column)
    );
    let rows = source.simple(&sql).await?;
    Ok(rows.into_iter().flatten().flatten().next().and_then(|text| text.parse().ok()))
}

/// Several numbers at a time: sessions hold some that they may use long after higher ones are visible. Nothing on the source tells which.
pub(super) fn cached(table: &Table, cache: u64) -> Result<(), Fault> {
    let shown = table.shown();
    if table.exact == Some(true) {
        return Err(Fault::usage(format!(
            "exact = true of {shown} can't be had: each session takes {cache} numbers of the sequence at a time"
        ))
        .hint(
            "ALTER SEQUENCE … CACHE 1, or leave out exact and set boundary to more than all sessions hold",
        ));
    }
    tracing::warn!(
        table = shown,
        cache,
        "each session takes several numbers at a time: boundary must be more than all sessions hold, and the newest rows wait until higher ones come"
    );
    Ok(())
}

/// Who may be believed of a table's newest rows, as it was asked for and as it can be had.
pub(super) fn mode(table: &Table, is_standby: bool) -> Result<Mode, Fault> {
    match (table.exact, is_standby) {
        (Some(true), true) => Err(Fault::usage(format!(
            "exact = true of {} can't be had: the source is a standby, which does not know the primary's transactions",
            table.shown()
        ))
        .hint("leave out exact, so that the boundary holds; or give the primary as the source")),
        (Some(true), false) => Ok(Mode::Exact),
        (Some(false), _) | (None, true) => Ok(Mode::Boundary),
        (None, false) => Ok(Mode::Both),
    }
}
