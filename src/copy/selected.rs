//! Some rows of a table brought anew, in their place among the others, which count as they are.
//!
//! The target has the table as the log has it up to a position. Under a snapshot those rows are read that are selected, and with them all that
//! were written by transactions behind that position. From the target go the rows with their keys, those whose keys these transactions deleted or
//! changed, which the log tells, and what is selected there; then the rows that were read go in. So the table equals the snapshot, but for what was
//! neither right nor selected.

use tokio_postgres::Client;

use crate::archive::{Archive, Since, since};
use crate::faults;
use crate::model::{Fault, Timestamp, Xid};
use crate::pg::{Pipeline, control, copied, quote_ident, quote_literal, transfer};

use super::part::simple;
use super::plan::{self, Which};
use super::refresh::{Window, gone, into, replace, temporary};
use super::survey::Table;
use super::{Options, session};

/// Rows that a condition may choose on the target and not on the source; where they are more, all rows are brought.
const CHOSEN_THERE_MAX: usize = 10_000;

/// Which rows are meant: those that fulfil all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// SQL.
    pub condition: Option<String>,
    pub written: Option<Written>,
}

/// Rows that were not written before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// By this transaction of the source, in 64 bits, or later ones.
    Xid(u64),
    /// By transactions that committed at this time or later.
    Time(Timestamp),
}

impl Selection {
    pub fn is_everything(&self) -> bool {
        self.condition.is_none() && self.written.is_none()
    }
}

/// The same with the time as a transaction id.
struct Chosen {
    condition: Option<String>,
    min_xid: Option<u64>,
}

impl Chosen {
    /// A fault where the selection makes no sense. What the log does not have yet is not looked for: it is brought as what is written meanwhile.
    async fn of(selection: &Selection, archive: &Archive, source: &Client) -> Result<Chosen, Fault> {
        let min_xid = match selection.written {
            None => None,
            Some(Written::Xid(xid)) => {
                refuse_xid(xid, next_xid(source).await?)?;
                Some(xid)
            }
            Some(Written::Time(time)) => {
                let since = tokio::task::block_in_place(|| since(archive, time))?;
                let next = next_xid(source).await?;
                let xid = lowest(&since, next).ok_or_else(|| {
                    too_long_ago(format!("what was written since {time}"), next)
                        .hint("bring all rows of the table")
                })?;
                tracing::info!(%time, min_xid = xid, first = %since.first.end_lsn, "the time as a transaction id");
                Some(xid)
            }
        };
        Ok(Chosen { condition: selection.condition.clone(), min_xid })
    }

    fn sql(&self) -> String {
        let condition = self.condition.as_ref().map(|condition| format!("({condition}\n)"));
        // The row has the lower half of the id.
        let min_xid = self.min_xid.map(|xid| plan::written_since(Xid((xid & u64::from(u32::MAX)) as u32)));
        condition.into_iter().chain(min_xid).collect::<Vec<_>>().join(" AND ")
    }
}

/// The lowest id of what was written since, in 64 bits, before the one that the source gives next. None where it is too far back.
fn lowest(since: &Since, next: u64) -> Option<u64> {
    // The next one may be before the log's last: commits that wait for a standby are in the log already.
    let upper = (next as u32).wrapping_sub(since.last.0).cast_signed();
    let age = since.behind.cast_signed() + i64::from(upper);
    next.checked_add_signed(-age).filter(|_| age < AGE_MAX as i64)
}

/// Brings the selected rows of tables whose copy has not begun. Gives the source's OIDs of those of which all rows are to be copied instead: the
/// caller notes that before their rows on the target go, since what is chosen there can't be told afterwards.
pub async fn selected(options: &Options, selection: &Selection) -> Result<Vec<u32>, Fault> {
    let (source, target) = options.clients().await?;
    let known = copied::tables(&target, &options.stream).await?;
    let mut tables = options.survey(&source, &target).await?;
    tables.retain(|table| !known.contains_key(&table.oid));
    let mut whole = Vec::new();
    if tables.is_empty() {
        return Ok(whole);
    }
    let chosen = Chosen::of(selection, &options.archive, &source).await?;
    for table in tables {
        let doing = |fault: Fault| fault.context(format!("bringing rows of {}", table.shown()));
        if table.key.is_empty() || !select(options, &table, &chosen).await.map_err(doing)? {
            tracing::warn!(
                table = table.shown(),
                "all of its rows are brought: it has no key, was truncated, too many rows are meant, or some key is not told by the log"
            );
            whole.push(table.oid);
        }
    }
    Ok(whole)
}

/// Refuses a selection that makes no sense for tables of these quoted names, before anything is done.
pub async fn check_selection(
    archive: &Archive,
    source: &Client,
    target: &Client,
    tables: &[String],
    selection: &Selection,
) -> Result<(), Fault> {
    Chosen::of(selection, archive, source).await?;
    let Some(condition) = &selection.condition else { return Ok(()) };
    for (side, client) in [("source", source), ("target", target)] {
        for table in tables {
            let tried =
                client.batch_execute(&format!("SELECT FROM {table} WHERE ({condition}\n) LIMIT 0")).await;
            if let Err(error) = tried {
                let fault = control::fault(&error);
                return Err(match fault.sqlstate {
                    Some(_) => Fault::usage(format!(
                        "--where can't be asked of {table} of the {side}: {}",
                        fault.message
                    )),
                    None => fault.context(side),
                });
            }
        }
    }
    Ok(())
}

/// Ids come round: one that is as far back would mean others.
const AGE_MAX: u64 = 1 << 31;

async fn next_xid(source: &Client) -> Result<u64, Fault> {
    let row = source.query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[]).await;
    let next: String = row.map_err(|error| control::fault(&error))?.get(0);
    next.parse().map_err(|_| Fault::stop("the source's transaction id makes no sense"))
}

fn refuse_xid(xid: u64, next: u64) -> Result<(), Fault> {
    match next.checked_sub(xid) {
        None => {
            Err(Fault::usage(format!("the source has not come to transaction {xid} yet: the next is {next}")))
        }
        Some(age) if age >= AGE_MAX => Err(too_long_ago(format!("transaction {xid}"), next).hint(
            "ids are those of pg_current_xact_id(), which don't come round; bring all rows of the table",
        )),
        Some(_) => Ok(()),
    }
}

fn too_long_ago(what: String, next: u64) -> Fault {
    Fault::usage(format!("{what} is too long ago to be told from later ones: the next transaction is {next}"))
}

/// Whether it could be done.
async fn select(options: &Options, table: &Table, chosen: &Chosen) -> Result<bool, Fault> {
    let (mut source, mut target) = tokio::try_join!(
        session::source(&options.source),
        session::target(&options.target, &options.archive.manifest().server_encoding)
    )?;
    let (moment, _) = session::begin(&mut source, None, Some(table)).await?;
    let window = Window::after(options.after, None, &moment)?;
    simple(&mut target, &format!("BEGIN; {}", temporary(table))).await?;
    let Some(gone) = gone(options, table, &window, &mut target).await? else { return Ok(false) };
    let wanted = chosen.sql();
    let read = match gone.oldest {
        Some(oldest) => format!("({wanted}) OR {}", plan::written_since(oldest)),
        None => wanted,
    };
    let write = into("fresh", &table.columns, table.format);
    let pace = |_, bytes| options.pace(table.oid, bytes);
    let read = plan::read(table, Which::Fulfilling(&read));
    let rows = transfer(&mut source, &read, &mut target, &write, None, pace).await?;
    if let (Some(condition), None) = (&chosen.condition, chosen.min_xid) {
        // On the target it may be true of other rows, which go too.
        let Some(others) = chosen_there(&mut target, table, condition).await? else { return Ok(false) };
        if let Some(others) = others {
            let read = plan::read(table, Which::Fulfilling(&others));
            transfer(&mut source, &read, &mut target, &write, None, pace).await?;
        }
    }
    session::settle(&mut source, &moment).await?;
    if let (Some(condition), None) = (&chosen.condition, chosen.min_xid) {
        let there = format!("DELETE FROM {} WHERE ({condition}\n)", table.on_target());
        simple(&mut target, &there).await?;
    }
    let note = copied::note_of(&options.stream, table.oid, &moment);
    simple(&mut target, &replace(table, &note)).await?;
    faults::point("copy.before_selected_commit");
    simple(&mut target, "COMMIT").await?;
    tracing::info!(table = table.shown(), rows, keys = gone.keys, "rows brought");
    Ok(true)
}

/// SQL that is true, on the source, of rows whose keys the condition chooses on the target and not there. None of none; nothing where they are too many.
async fn chosen_there(
    target: &mut Pipeline,
    table: &Table,
    condition: &str,
) -> Result<Option<Option<String>>, Fault> {
    let key = plan::columns(&table.key);
    let texts: Vec<_> = table.key.iter().map(|name| format!("{}::text", quote_ident(name))).collect();
    let query = format!(
        "SELECT {} FROM {} WHERE ({condition}\n) AND ({key}) NOT IN (SELECT {key} FROM pg_temp.fresh) LIMIT {}",
        texts.join(", "),
        table.on_target(),
        CHOSEN_THERE_MAX + 1
    );
    let rows = target.simple(&query).await.map_err(|fault| fault.context("target"))?;
    if rows.len() > CHOSEN_THERE_MAX {
        return Ok(None);
    }
    let value = |value: &Option<String>| quote_literal(value.as_deref().unwrap_or_default());
    let keys: Vec<_> = rows
        .iter()
        .map(|row| format!("({})", row.iter().map(value).collect::<Vec<_>>().join(", ")))
        .collect();
    Ok(Some((!keys.is_empty()).then(|| format!("({key}) IN ({})", keys.join(", ")))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Found;
    use crate::model::Position;

    #[test]
    fn a_selection_is_one_condition() {
        let sql = |condition: &str, min_xid| Chosen { condition: Some(condition.to_owned()), min_xid }.sql();
        assert_eq!(sql("a = 1 -- x", None), "(a = 1 -- x\n)");
        let both = sql("a", Some((1 << 32) + 77));
        assert!(both.starts_with("(a\n) AND (xmin::text::int8 >= 3 AND (xmin::text::int8 - 77 "), "{both}");
        assert!(Selection::default().is_everything());
    }

    #[test]
    fn an_id_of_the_log_has_its_upper_half_from_the_source() {
        let first = Found {
            end_lsn: Position(1),
            time: Timestamp::default(),
            xid: 0,
            segment: String::new(),
            frame_offset: 0,
        };
        const ROUND: u64 = 1 << 32;
        for (last, behind, next, expected) in [
            (10, 3, 11, Some(7)),
            (10, 3, ROUND + 11, Some(ROUND + 7)),
            // Come round since.
            (u32::MAX, 9, ROUND + 5, Some(ROUND - 10)),
            // A commit that waits for a standby is in the log before the source counts it.
            (10, 0, ROUND + 9, Some(ROUND + 10)),
            (10, AGE_MAX - 2, 5 * ROUND + 11, Some(5 * ROUND + 12 - AGE_MAX)),
            (10, AGE_MAX - 1, 5 * ROUND + 11, None),
            (10, ROUND, 5 * ROUND + 11, None),
            // Before the source's first.
            (10, 100, 11, None),
        ] {
            let since = Since { first: first.clone(), last: Xid(last), behind };
            assert_eq!(lowest(&since, next), expected, "{last} {behind} {next}");
        }
    }
}
