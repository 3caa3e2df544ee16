//! A pull of what a trigger's queue has noted.

use super::look::{self, Clock};
use super::pull::{Pulled, Puller, Reading};
use super::sink::Sink;
use super::sql::Range;
use super::{Table, TableState, queue};
use crate::faults;
use crate::model::Fault;
use crate::pg::Pipeline;

impl Puller<'_> {
    /// What the trigger has noted; the first time all rows.
    pub(super) async fn drain(
        &self,
        source: &mut Pipeline,
        before: &TableState,
        clock: Clock,
    ) -> Result<Pulled, Fault> {
        let shown = self.table.shown();
        let mut state = before.clone();
        state.last_run = Some(clock.now.to_string());
        state.error = None;
        if !before.is_loaded {
            state.is_loaded = true;
            // What is touched from now on is in the queue.
            look::cell(source, &queue::ids(self.table)).await?;
            let pulled = self.read(source, before, &Range::default(), None, state).await?;
            return Ok(Pulled { has_more: true, by: Some("all rows".into()), ..pulled });
        }
        state.last_rows = 0;
        let (shape, now) = self.begin(source).await?;
        let ids = source.simple(&queue::ids(self.table)).await?;
        let ids: Vec<String> = ids.into_iter().flatten().flatten().collect();
        let Some(last) = ids.last() else {
            source.simple("ROLLBACK").await?;
            return self.note(before, state, now).await;
        };
        let keys = self.table.key.len();
        let places: Option<Vec<usize>> = self.table.key.iter().map(|name| shape.place(name)).collect();
        let places = places.ok_or_else(|| Fault::stop(format!("a key column of {shown} is not read")))?;
        let copy = queue::copy(self.table, shape.names().collect::<Vec<_>>().into_iter(), last);
        let mut sink = Sink::new(self.log, now);
        for message in shape.messages(self.table) {
            sink.put(&message).await?;
        }
        let mut deleted = 0;
        let width = shape.len();
        let mut reading = Reading { shape: &shape, sink, spare: Vec::new() };
        let rows = reading
            .copy(source, &copy, async |sink, oid, row| {
                let (key, values) =
                    row.get(1..).unwrap_or_default().split_at_checked(keys).unwrap_or_default();
                if row.first().copied().flatten().is_some() {
                    return sink.insert(oid, values).await;
                }
                deleted += 1;
                let mut gone = vec![None; width];
                for (place, value) in places.iter().zip(key) {
                    if let Some(cell) = gone.get_mut(*place) {
                        *cell = *value;
                    }
                }
                sink.delete(oid, &gone).await
            })
            .await?;
        source.simple("COMMIT").await?;
        let rows = rows.saturating_sub(deleted);
        state.method = self.table.method;
        state.last_rows = rows;
        state.rows = state.rows.saturating_add(rows);
        state.deleted = state.deleted.saturating_add(deleted);
        look::settle(source).await?;
        let position = reading.sink.commit(&shown, state, true).await?;
        faults::point("poll.before_queue_delete");
        source
            .simple(&queue::delete(self.table, &ids))
            .await
            .map_err(|fault| fault.context(format!("removing what was read from the queue of {shown}")))?;
        faults::point("poll.after_queue_delete");
        let limit = self.table.limit.unwrap_or(Table::QUEUE_LIMIT);
        let has_more = ids.len() as u64 >= limit;
        Ok(Pulled { rows, deleted, position: Some(position), has_more, ..Pulled::default() })
    }
}
