//! The beginning of a stream, as the slot's plugin wants it.

use super::door::{Catalog, Dialect, Door};
use super::{APPLICATION, Asked, Source, published};
use crate::archive::Archive;
use crate::model::{Fault, Format, OutputPlugin, Position};
use crate::pg::{self, ReplicationReceiver, ReplicationStream, StatusSender, control, facts, slot};
use crate::plugin::{TableName, test_decoding, wal2json};

/// The first version that sends transactions while they are under way.
const STREAMING_SINCE: u32 = 140_000;

/// A stream that has begun, and the way into the log for what it brings.
pub(super) struct Begun {
    pub(super) events: ReplicationReceiver,
    pub(super) status: StatusSender,
    pub(super) door: Door,
}

/// Begins streaming at `from`.
pub(super) async fn begin(
    archive: &Archive,
    source: &Source,
    stream: ReplicationStream,
    from: Position,
    asked: Asked,
) -> Result<Begun, Fault> {
    let plugin: OutputPlugin =
        archive.manifest().plugin.parse().map_err(|error| Fault::stop(format!("the archive: {error}")))?;
    let streaming = asked.streaming && stream.server_version_num() >= STREAMING_SINCE;
    let asked = Asked { streaming, ..asked };
    let (dialect, (events, status)) = match plugin {
        OutputPlugin::Pgoutput => {
            let (events, status) = pgoutput(source, stream, from, asked).await?;
            return Ok(Begun { events, status, door: Door::pgoutput(archive, asked.format)? });
        }
        OutputPlugin::TestDecoding => {
            let started = stream.start(&source.slot, from, &test_decoding::OPTIONS).await;
            (Dialect::TestDecoding, started.map_err(|fault| slot::explain(fault, plugin))?)
        }
        OutputPlugin::Wal2json => wal2json(source, stream, from).await?,
    };
    let client = control::connect(&source.conninfo, APPLICATION).await?;
    let mut known = published::read(archive)?;
    let (seen, found) = facts::published(&client, &source.publication).await?;
    if known.see_all(&seen, found.into_iter().map(|(schema, name)| TableName { schema, name }).collect()) {
        published::write(archive, &known)?;
    }
    let catalog = Catalog { client, publication: source.publication.clone(), published: known };
    Ok(Begun { events, status, door: Door::translating(archive, dialect, catalog)? })
}

async fn pgoutput(
    source: &Source,
    stream: ReplicationStream,
    from: Position,
    asked: Asked,
) -> Result<(ReplicationReceiver, StatusSender), Fault> {
    let publications = pg::publication_names([source.publication.as_str()]);
    let version = if asked.streaming { "2" } else { "1" };
    let mut options =
        vec![("proto_version", version), ("publication_names", publications.as_str()), ("messages", "true")];
    if asked.streaming {
        options.push(("streaming", "on"));
    }
    if asked.format == Format::Binary {
        options.push(("binary", "true"));
    }
    stream.start(&source.slot, from, &options).await
}

/// Which version of the plugin it is, only its answer to an option tells, and that ends the connection.
async fn wal2json(
    source: &Source,
    stream: ReplicationStream,
    from: Position,
) -> Result<(Dialect, (ReplicationReceiver, StatusSender)), Fault> {
    let explain = |fault| slot::explain(fault, OutputPlugin::Wal2json);
    let mut options = wal2json::OPTIONS.to_vec();
    options.push(wal2json::ALL_NUMBERS);
    match stream.start(&source.slot, from, &options).await {
        Ok(started) => Ok((Dialect::Wal2json { all_numbers: true }, started)),
        Err(fault) if fault.message.contains(wal2json::ALL_NUMBERS.0) => {
            tracing::warn!(
                "wal2json is older than 2.6: it prints NaN and infinities as null, so a null number is refused"
            );
            let stream = ReplicationStream::connect(&source.conninfo, APPLICATION, &[]).await?;
            let started = stream.start(&source.slot, from, &wal2json::OPTIONS).await.map_err(explain)?;
            Ok((Dialect::Wal2json { all_numbers: false }, started))
        }
        Err(fault) => Err(explain(fault)),
    }
}
