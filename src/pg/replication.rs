//! A logical replication connection: first commands (slots, identity, timelines), then the stream, whose two
//! directions belong to different tasks: the receiver reads, the sender reports, and neither can hold up the other
//! (PostgreSQL documentation, 55.4 and 55.5).

use super::conninfo::Conninfo;
use super::frames::put_string;
use super::rows::Rows;
use super::server_message::ServerMessage;
use super::session::Session;
use super::sql::{quote_ident, quote_replication_literal};
use super::stream::{ReplicationReceiver, StatusSender, out_of_place, slot_fault};
use super::wire::{self, Wire};
use crate::model::{Fault, Position};

/// IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_identifier: u64,
    pub timeline: u32,
    /// The end of WAL flushed so far.
    pub position: Position,
    pub database: String,
}

/// Where a timeline ended and the next one began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    pub timeline: u32,
    pub switched_at: Position,
}

/// What becomes of the snapshot of a new slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Its name can be imported until the next command on this connection.
    Export,
    Nothing,
}

/// CREATE_REPLICATION_SLOT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    pub consistent_point: Position,
    pub snapshot_name: Option<String>,
}

/// A connection in replication mode that takes commands.
pub struct ReplicationStream {
    wire: Wire,
}

impl ReplicationStream {
    /// Values come in the server's encoding. `settings` are further ones of the session, such as
    /// `wal_sender_timeout`.
    pub async fn connect(
        conninfo: &Conninfo,
        application_name: &str,
        settings: &[(&str, &str)],
    ) -> Result<ReplicationStream, Fault> {
        let session = Session { application_name, replication: true, settings, ..Session::default() };
        let wire =
            wire::connect(conninfo, &session).await.map_err(|fault| match fault.sqlstate.as_deref() {
                Some("42501") => {
                    fault.hint(format!("ALTER ROLE {} REPLICATION", quote_ident(conninfo.user())))
                }
                Some("53300") => fault.hint("max_wal_senders or max_connections of the server is reached"),
                _ => fault,
            })?;
        Ok(ReplicationStream { wire })
    }

    /// A setting that the server reported when the connection was made.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.wire.parameter(name)
    }

    /// For example 150020.
    pub fn server_version_num(&self) -> u32 {
        self.wire.server_version_num()
    }

    /// The encoding in which names and values come.
    pub fn server_encoding(&self) -> &str {
        self.wire.parameter("server_encoding").unwrap_or("SQL_ASCII")
    }

    /// Runs SQL, which this kind of connection takes too.
    pub async fn simple(&mut self, sql: &str) -> Result<Rows, Fault> {
        self.wire.simple(sql).await
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Fault> {
        let rows = self.wire.simple("IDENTIFY_SYSTEM").await?;
        let field = |index| rows.first().and_then(|row| row.get(index)).and_then(Option::as_deref);
        let parsed = || {
            Some(SystemIdentity {
                system_identifier: field(0)?.parse().ok()?,
                timeline: field(1)?.parse().ok()?,
                position: field(2)?.parse().ok()?,
                database: field(3)?.into(),
            })
        };
        parsed().ok_or_else(|| Fault::stop("the server's answer to IDENTIFY_SYSTEM makes no sense"))
    }

    /// The switches that led to a timeline, oldest first; none for the first timeline, which has no history.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<TimelineSwitch>, Fault> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let rows = self.wire.simple(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
        let content =
            content.ok_or_else(|| Fault::stop("the server's answer to TIMELINE_HISTORY makes no sense"))?;
        Ok(switches(content))
    }

    pub async fn create_slot(
        &mut self,
        slot: &str,
        plugin: &str,
        temporary: bool,
        snapshot: SnapshotAction,
    ) -> Result<CreatedSlot, Fault> {
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let snapshot = match (snapshot, self.server_version_num() >= 150_000) {
            (SnapshotAction::Export, true) => "(SNAPSHOT 'export')",
            (SnapshotAction::Nothing, true) => "(SNAPSHOT 'nothing')",
            (SnapshotAction::Export, false) => "EXPORT_SNAPSHOT",
            (SnapshotAction::Nothing, false) => "NOEXPORT_SNAPSHOT",
        };
        let (name, plugin) = (quote_ident(slot), quote_ident(plugin));
        let command = format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL {plugin} {snapshot}");
        let rows = self.wire.simple(&command).await.map_err(|fault| {
            let fault = fault.context(format!("creating slot \"{slot}\""));
            match fault.sqlstate.as_deref() {
                Some("55000") if fault.message.contains("wal_level") => {
                    fault.hint("ALTER SYSTEM SET wal_level = 'logical', then restart the source")
                }
                Some("53400") => {
                    fault.hint("raise max_replication_slots of the source, or drop a slot that nobody uses")
                }
                _ => fault,
            }
        })?;
        let field = |index| rows.first().and_then(|row| row.get(index)).and_then(Option::as_deref);
        let consistent_point = field(1).and_then(|text| text.parse().ok());
        let consistent_point = consistent_point
            .ok_or_else(|| Fault::stop("the server's answer to CREATE_REPLICATION_SLOT makes no sense"))?;
        Ok(CreatedSlot { consistent_point, snapshot_name: field(2).map(str::to_owned) })
    }

    /// Drops a slot; with `wait`, once whoever uses it has let it go.
    pub async fn drop_slot(&mut self, slot: &str, wait: bool) -> Result<(), Fault> {
        let wait = if wait { " WAIT" } else { "" };
        let command = format!("DROP_REPLICATION_SLOT {}{wait}", quote_ident(slot));
        self.wire
            .simple(&command)
            .await
            .map(drop)
            .map_err(|fault| fault.context(format!("dropping slot \"{slot}\"")))
    }

    /// Begins streaming at `from`. The server believes it: below the slot's confirmed position it silently starts
    /// there, above it skips, so compare the two before.
    pub async fn start(
        mut self,
        slot: &str,
        from: Position,
        options: &[(&str, &str)],
    ) -> Result<(ReplicationReceiver, StatusSender), Fault> {
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{} {}", quote_ident(name), quote_replication_literal(value)))
            .collect();
        let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
        let command = format!("START_REPLICATION SLOT {} LOGICAL {from}{options}", quote_ident(slot));
        self.wire.outgoing.frame(b'Q', |body| put_string(body, &command))?;
        self.wire.outgoing.flush().await?;
        loop {
            let frame = self.wire.incoming.next().await?;
            match frame.tag {
                b'W' => break,
                b'E' => {
                    return Err(
                        slot_fault(ServerMessage::parse(frame.body)).context(format!("slot \"{slot}\""))
                    );
                }
                b'N' | b'S' => {}
                tag => return Err(out_of_place(tag)),
            }
        }
        let Wire { incoming, outgoing, .. } = self.wire;
        Ok((ReplicationReceiver { incoming, slot: slot.into() }, StatusSender { outgoing }))
    }
}

/// `timeline TAB switch point TAB reason`, and comments.
fn switches(history: &str) -> Vec<TimelineSwitch> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = words.next()?.parse().ok()?;
        Some(TimelineSwitch { timeline, switched_at: words.next()?.parse().ok()? })
    };
    history.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_are_parsed() {
        let text = "1\t0/5000158\tno recovery target specified\n\n# note\n2\t1A/10\tbefore 2000-01-01\n";
        let expected = [(1, Position(0x500_0158)), (2, Position(0x1A_0000_0010))];
        let expected = expected.map(|(timeline, switched_at)| TimelineSwitch { timeline, switched_at });
        assert_eq!(switches(text), expected);
    }
}
