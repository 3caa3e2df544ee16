//! The schema of the source, read once for a clone and made in phases around the rows.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::archive::Archive;
use crate::dump::{Dump, Phase, Programs, Wanted};
use crate::model::Fault;
use crate::pg::pattern::Pattern;
use crate::pg::{Conninfo, copied};

use super::define::{Definition, Done, define};
use super::session::Leader;
use super::{APPLICATION, Options, survey};

/// How the schema is made.
#[derive(Clone, Debug, Default)]
pub struct SchemaOptions {
    pub wanted: Wanted,
    /// For making indexes, such as `1GB`; none leaves the server's.
    pub maintenance_work_mem: Option<String>,
}

/// Blocks of tables, by schema and name.
type Sizes = HashMap<(String, String), u64>;

/// What of the source's schema is to be made.
pub struct Schema {
    dump: Dump,
    file: PathBuf,
    /// What is not, a line each.
    pub left_out: Vec<String>,
    maintenance_work_mem: Option<String>,
    /// Blocks of each table.
    sizes: Sizes,
}

impl Schema {
    /// Reads it from the source, or from the file of an earlier run. DDL that its snapshot shows is left out by the applier.
    pub async fn read(options: &Options, schema: &SchemaOptions) -> Result<Schema, Fault> {
        let (source, target) = options.clients().await?;
        let programs = Programs::find(options.archive.origin()?.server_version_num).await?;
        let file = dump_file(&options.archive, "schema", &options.stream);
        let clone = copied::clone(&target, &options.stream).await?;
        if clone.is_none_or(|clone| clone.schema.is_none()) {
            let leader = Leader::open(&options.source, None).await?;
            programs.dump(&options.source, &schema.wanted, Some(&leader.exported), &file).await?;
            copied::note_schema(&target, &options.stream, &leader.moment).await?;
        } else if !file.exists() {
            return Err(Fault::stop(format!(
                "the schema that was read for this clone is gone: {}",
                file.display()
            ))
            .hint("put the file back; or begin with an empty target, after pgsluice cleanup"));
        }
        let sizes = survey::sizes(&source).await?;
        let remade = options.rules.iter().flat_map(|rules| rules.remade()).cloned();
        let exclude: Vec<_> = options.exclude.iter().cloned().chain(remade).collect();
        let mut read = Schema::open(&programs, file, schema, &options.tables, &exclude, sizes)?;
        let unpublished = survey::unpublished(&source, &options.wanted(&[])).await?;
        let rows = unpublished.iter().map(|table| format!("rows of {table}, which is not published"));
        read.left_out.extend(rows);
        Ok(read)
    }

    /// That which a file of pg_dump's has, of a server of this version.
    pub(super) async fn of_file(
        server_version_num: u32,
        file: PathBuf,
        schema: &SchemaOptions,
        tables: &[Pattern],
        exclude: &[Pattern],
        sizes: Sizes,
    ) -> Result<Schema, Fault> {
        let programs = Programs::find(server_version_num).await?;
        Schema::open(&programs, file, schema, tables, exclude, sizes)
    }

    fn open(
        programs: &Programs,
        file: PathBuf,
        schema: &SchemaOptions,
        tables: &[Pattern],
        exclude: &[Pattern],
        sizes: Sizes,
    ) -> Result<Schema, Fault> {
        let dump = Dump::open(programs, &file, schema.wanted)?;
        let (dump, left_out) = dump.choose(tables, exclude)?;
        let maintenance_work_mem = schema.maintenance_work_mem.clone();
        Ok(Schema { dump, file, left_out, maintenance_work_mem, sizes })
    }

    /// Removes the file, which may name passwords of foreign servers.
    pub fn forget(self) -> Result<(), Fault> {
        let fault = |e| Fault::stop(format!("removing {}: {e}", self.file.display()));
        std::fs::remove_file(&self.file).map_err(fault)
    }

    /// Makes what belongs to a phase and is not there yet.
    pub async fn make(
        &self,
        target: &Conninfo,
        stream: &str,
        jobs: usize,
        phase: Phase,
        told: &(dyn Fn(Done<'_>) + Sync),
    ) -> Result<(), Fault> {
        let size = |schema: &str, name: &str| {
            self.sizes.get(&(schema.to_owned(), name.to_owned())).copied().unwrap_or(0)
        };
        let definition = Definition {
            dump: &self.dump,
            target,
            stream,
            application: APPLICATION,
            jobs,
            maintenance_work_mem: self.maintenance_work_mem.as_deref(),
            size: &size,
            told,
        };
        define(phase, &definition).await
    }
}

/// Where pg_dump's file is kept between the runs.
pub(super) fn dump_file(archive: &Archive, what: &str, stream: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let stream: String = stream.chars().map(plain).collect();
    archive.root().join(format!("{what}-{stream}.dump"))
}
