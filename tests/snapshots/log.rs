//! A log of polled tables, written as the poller writes it, without a source.

use pgsluice::archive::{Archive, Manifest, Writer, WriterOptions};
use pgsluice::model::{Column, Lsn, Position, Relation, ReplicaIdentity, Timestamp, Value, Xid};
use pgsluice::pgoutput::{Begin, Commit, Message, Truncate, TupleBuffer, encode};
use tokio::runtime::{Builder, Runtime};

use crate::log::messages::{START, manifest};
use crate::support::{Cluster, Pgsluice, seconds};

pub(super) const INT4: u32 = 23;
pub(super) const INT8: u32 = 20;
pub(super) const TEXT: u32 = 25;

/// The writing end of an archive, and the program that applies it to a target.
pub(super) struct Log {
    writer: Option<Writer>,
    runtime: Runtime,
    end: Position,
    pub(super) program: Pgsluice,
}

/// A table of the schema `s` with these columns: name, type, modifier.
pub(super) fn table(oid: u32, name: &str, columns: &[(&str, u32, i32)]) -> Relation {
    let column = |&(name, type_oid, type_modifier): &(&str, u32, i32)| Column {
        name: name.into(),
        key: false,
        type_oid,
        type_modifier,
    };
    Relation {
        oid,
        schema: "s".into(),
        name: name.into(),
        identity: ReplicaIdentity::Nothing,
        columns: columns.iter().map(column).collect(),
    }
}

/// `t(id, ver, note)`.
pub(super) fn plain() -> Relation {
    table(100, "t", &[("id", INT8, -1), ("ver", INT4, -1), ("note", TEXT, -1)])
}

/// Rows of [`plain`] that all are of one version.
pub(super) fn version(ver: u32, rows: u32) -> impl Iterator<Item = Vec<Option<String>>> {
    (1..=rows)
        .map(move |id| vec![Some(id.to_string()), Some(ver.to_string()), Some(format!("note {id} of {ver}"))])
}

pub(super) fn texts(rows: &[&[&str]]) -> Vec<Vec<Option<String>>> {
    let text = |text: &&str| (*text != "NULL").then(|| (*text).to_owned());
    rows.iter().map(|row| row.iter().map(text).collect()).collect()
}

impl Log {
    pub(super) fn to(target: &Cluster) -> Log {
        Log::by(&target.conninfo())
    }

    pub(super) fn by(conninfo: &str) -> Log {
        let program = Pgsluice::with("host=127.0.0.1 port=1", conninfo);
        let manifest = Manifest { plugin: "poll".into(), ..manifest() };
        let archive = Archive::create(&program.archive(), manifest).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let writer = {
            let _inside = runtime.enter();
            Writer::open(&archive, 1, WriterOptions::default()).unwrap()
        };
        Log { writer: Some(writer), runtime, end: START, program }
    }

    fn append(&mut self, message: &Message<'_>) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        let writer = self.writer.as_mut().unwrap();
        writer.append(&bytes).unwrap();
        if writer.is_full() {
            self.runtime.block_on(writer.room());
        }
    }

    pub(super) fn define_type(&mut self, oid: u32, schema: &str, name: &str) {
        self.append(&Message::Type { oid, schema: schema.into(), name: name.into() });
    }

    /// One transaction; it is durable when this returns, and named by its end.
    pub(super) fn transaction(&mut self, say: impl FnOnce(&mut Log)) -> String {
        let end = Position(self.end.0 + 0x100);
        let (commit_lsn, commit_time) = (Lsn(end.0 - 0x30), Timestamp(800_000_000_000_000 + end.0 as i64));
        self.append(&Message::Begin(Begin { commit_lsn, commit_time, xid: Xid(end.0 as u32) }));
        say(self);
        let state = Message::Logical {
            transactional: true,
            lsn: commit_lsn,
            prefix: b"pgsluice.poll",
            content: b"{}",
        };
        self.append(&state);
        self.append(&Message::Commit(Commit { commit_lsn, end, commit_time }));
        let writer = self.writer.as_mut().unwrap();
        writer.flush();
        let mut durable = writer.durable();
        self.runtime.block_on(async {
            let wait = durable.wait_for(|durable| durable.position >= end);
            tokio::time::timeout(seconds(60), wait).await.expect("durable").unwrap();
        });
        self.end = end;
        end.to_string()
    }

    pub(super) fn truncate(&mut self, oid: u32) {
        let truncate = Truncate { relations: vec![oid], cascade: false, restart_identity: false };
        self.append(&Message::Truncate(truncate));
    }

    pub(super) fn define(&mut self, relation: &Relation) {
        self.append(&Message::Relation(relation.clone()));
    }

    pub(super) fn insert(&mut self, oid: u32, row: &[Option<String>]) {
        let mut tuple = TupleBuffer::default();
        for value in row {
            tuple.push(value.as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes()))).unwrap();
        }
        self.append(&Message::Insert { relation: oid, new: tuple.tuple() });
    }

    /// A snapshot of a table: all its rows.
    pub(super) fn snapshot(
        &mut self,
        relation: &Relation,
        rows: impl IntoIterator<Item = Vec<Option<String>>>,
    ) -> String {
        self.transaction(|log| {
            log.define(relation);
            log.truncate(relation.oid);
            rows.into_iter().for_each(|row| log.insert(relation.oid, &row));
        })
    }

    /// All that was written is to be on the target.
    #[track_caller]
    pub(super) fn apply(&self) {
        self.program.run(&["apply", "--endpos", &self.end.to_string()]).done();
    }

    /// It is not taken; what is said then.
    #[track_caller]
    pub(super) fn refused(&self) -> String {
        self.program.run(&["apply", "--endpos", &self.end.to_string()]).ends_with(1).stderr
    }

    pub(super) fn end(&self) -> String {
        self.end.to_string()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            let _ = self.runtime.block_on(writer.close());
        }
    }
}
