//! A pull of a whole table or view, left out where nothing has changed.

use super::alarm::Alarm;
use super::look::{self, Clock};
use super::pull::{Pulled, Puller, Reading};
use super::shape::Shape;
use super::sink::Sink;
use super::sql::{self, Range};
use super::{Table, TableState};
use crate::model::Fault;
use crate::pg::Pipeline;
use crate::pgoutput::{Message, Truncate};

/// So old may be the last look at a snapshot's rows, for the server's statistics to decide that there is nothing new.
const LOOK_AGE_MICROSECONDS: i64 = 3600 * 1_000_000;
/// The server keeps statistics without losing any since then.
const STATISTICS_SINCE: u32 = 150_000;

impl Puller<'_> {
    /// The whole table, unless nothing changed.
    pub(super) async fn snapshot(
        &self,
        source: &mut Pipeline,
        before: &TableState,
        clock: Clock,
    ) -> Result<Pulled, Fault> {
        let shown = self.table.shown();
        let mut state = before.clone();
        state.last_run = Some(clock.now.to_string());
        state.last_rows = 0;
        state.error = None;
        let shape = Shape::read(source, self.table).await?;
        // Before the snapshot: what is counted by now has ended, so the snapshot shows it. What is counted later is one more look.
        let statistics = statistics(source, self.table, &shape, clock).await?;
        let is_recent =
            before.looked.is_some_and(|looked| clock.now.0.saturating_sub(looked) < LOOK_AGE_MICROSECONDS);
        let is_same = before.definition == Some(shape.definition(self.table));
        if is_same && is_recent && statistics.is_some() && statistics == before.statistics {
            state.decided_by = Some("statistics".into());
            let pulled = self.note(before, state, clock.now).await?;
            return Ok(Pulled { by: Some("unchanged by the server's statistics".into()), ..pulled });
        }
        let (shape, now) = self.begin(source).await?;
        let content = look::cell(source, &sql::content(self.table, &shape.list())).await?;
        let is_same = before.definition == Some(shape.definition(self.table));
        state.statistics = statistics;
        state.looked = Some(clock.now.0);
        state.decided_by = Some(if is_same { "content hash" } else { "definition" }.into());
        if is_same && content.is_some() && content == before.content {
            source.simple("ROLLBACK").await?;
            let pulled = self.note(before, state, now).await?;
            return Ok(Pulled { by: Some("unchanged by the hash of its rows".into()), ..pulled });
        }
        let size = match shape.is_counted() {
            true => look::cell(source, &format!("SELECT pg_table_size({})::text", shape.oid)).await?,
            false => None,
        };
        let mut sink = Sink::new(self.log, now);
        for message in shape.messages(self.table) {
            sink.put(&message).await?;
        }
        let truncate = Truncate { relations: vec![shape.oid], cascade: false, restart_identity: false };
        sink.put(&Message::Truncate(truncate)).await?;
        let copy = Range::default().copy(self.table, &shape.list());
        let mut reading = Reading { shape: &shape, sink, spare: Vec::new() };
        let mut bytes = 0;
        let rows = reading
            .copy(source, &copy, async |sink, oid, row| {
                bytes += row.iter().flatten().map(|value| value.len() as u64).sum::<u64>();
                sink.insert(oid, row).await
            })
            .await?;
        source.simple("COMMIT").await?;
        state.definition = Some(shape.definition(self.table));
        state.content = content;
        state.method = self.table.method;
        state.last_rows = rows;
        state.rows = state.rows.saturating_add(rows);
        let by = state.decided_by.clone();
        look::settle(source).await?;
        let position = reading.sink.commit(&shown, state, false).await?;
        let mut pulled = Pulled { rows, position: Some(position), by, ..Pulled::default() };
        let size = size.and_then(|size| size.parse().ok()).unwrap_or(0).max(bytes);
        if size > self.table.warn_bytes {
            pulled.alarms.push(Alarm {
                kind: "poll_large",
                table: shown.clone(),
                is_critical: false,
                message: format!(
                    "{shown} has {size} bytes, more than the {} from which on a snapshot is much to bring each time",
                    self.table.warn_bytes
                ),
                cure: "method upsert or queue, or append; or raise warn-size".into(),
            });
        }
        Ok(pulled)
    }
}

/// What the server has counted of a table's changes; none where that can't be relied upon.
async fn statistics(
    source: &mut Pipeline,
    table: &Table,
    shape: &Shape,
    clock: Clock,
) -> Result<Option<String>, Fault> {
    // What a condition asks may change by itself.
    let is_of_rows = table.condition.is_none();
    if clock.is_standby
        || !is_of_rows
        || !shape.is_counted()
        || source.server_version_num() < STATISTICS_SINCE
    {
        return Ok(None);
    }
    // What counts nothing says nothing: a crash begins anew at zero. A TRUNCATE is not counted, and shows in the file.
    let sql = format!(
        "SELECT format('%s/%s/%s/%s/%s/%s', s.n_tup_ins, s.n_tup_upd, s.n_tup_del, pg_relation_filenode(s.relid),
                       pg_postmaster_start_time(), d.stats_reset)
           FROM pg_stat_all_tables s, pg_stat_database d
          WHERE s.relid = {} AND d.datname = current_database() AND current_setting('track_counts') = 'on'
            AND s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0",
        shape.oid
    );
    look::cell(source, &sql).await.map_err(|fault| fault.context(format!("statistics of {}", table.shown())))
}
