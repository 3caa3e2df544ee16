//! Changes of rows on their way to the target: alone, in sets, or by COPY.

use super::Session;
use crate::model::{Fault, Format};
use crate::pg::CopyRows;
use crate::transform::{Statement, StatementKind};

/// Prepared statements kept on the target before all are dropped and prepared anew.
const PREPARED_MAX: usize = 1000;
/// Rows larger than this go alone: they gain nothing from company.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Size at which rows of a COPY are sent on.
const COPY_BYTES: usize = 64 << 10;

/// Number of a COPY of our own: the planner's are counted from 0.
const OWN_COPY: u32 = u32::MAX;

/// A COPY that is under way.
pub(super) struct Copy {
    statement: u32,
    rows: CopyRows,
}

impl Session {
    /// Executes a planned statement now.
    pub(in crate::apply) async fn execute(
        &mut self,
        statement: &Statement,
        parameters: &[Option<&[u8]>],
    ) -> Result<(), Fault> {
        self.end_copy()?;
        self.end_run()?;
        if matches!(statement.kind, StatementKind::Truncate | StatementKind::DeleteAll) {
            self.writer.parse("", &statement.sql)?;
            self.run("", parameters)?;
        } else {
            self.run_prepared(statement, parameters)?;
        }
        self.writer.drain().await
    }

    /// Executes a statement of our own, at its place between the changes.
    pub(in crate::apply) async fn execute_sql(
        &mut self,
        sql: &str,
        parameters: &[Option<String>],
    ) -> Result<(), Fault> {
        self.end_copy()?;
        self.end_run()?;
        self.writer.parse("", sql)?;
        let values: Vec<_> =
            parameters.iter().map(|value| value.as_ref().map(|text| text.as_bytes())).collect();
        self.run("", &values)?;
        self.writer.drain().await
    }

    /// Executes a planned statement, or holds it back in case more of its kind follow, which must be about other rows.
    pub(in crate::apply) async fn execute_in_run(
        &mut self,
        statement: &Statement,
        parameters: &[Option<&[u8]>],
    ) -> Result<(), Fault> {
        let is_large = parameters.iter().flatten().map(|value| value.len()).sum::<usize>() > ROW_BYTES_MAX;
        if statement.many.is_none() || is_large {
            return self.execute(statement, parameters).await;
        }
        self.end_copy()?;
        if !self.run.takes(statement) {
            self.end_run()?;
        }
        self.run.push(statement, parameters);
        if self.run.is_full() {
            self.end_run()?;
        }
        self.writer.drain().await
    }

    /// Sends the rows that were held back.
    pub(in crate::apply) fn end_run(&mut self) -> Result<(), Fault> {
        let mut run = std::mem::take(&mut self.run);
        if let Some(statement) = run.statement() {
            let (parameters, width) = (run.parameters(), statement.parameter_count().max(1));
            match &statement.many {
                Some(many) if run.is_many() => {
                    // A reader that is gone shows elsewhere.
                    let _ = self.expected.send((self.statements, run.rows() as u64));
                    let mut buffer = [0; 12];
                    let name = self.prepared_name(many.id, &many.sql, &[], &mut buffer)?;
                    self.statements += 1;
                    let column =
                        |(at, element)| (element, parameters.iter().skip(at).step_by(width).copied());
                    let elements = many.elements.iter().copied().enumerate();
                    self.writer.bind_arrays_execute(name, elements.map(column))?;
                }
                _ => {
                    for row in parameters.chunks(width) {
                        self.run_prepared(statement, row)?;
                    }
                }
            }
        }
        run.clear();
        self.run = run;
        Ok(())
    }

    fn run_prepared(&mut self, statement: &Statement, parameters: &[Option<&[u8]>]) -> Result<(), Fault> {
        let mut buffer = [0; 12];
        let name = self.prepared_name(statement.id, &statement.sql, &statement.types, &mut buffer)?;
        self.statements += 1;
        self.writer.bind_execute_in(statement.format, name, parameters.iter().copied())
    }

    /// The name of a statement, which is prepared where it isn't yet.
    fn prepared_name<'b>(
        &mut self,
        id: u32,
        sql: &str,
        types: &[u32],
        buffer: &'b mut [u8; 12],
    ) -> Result<&'b str, Fault> {
        if self.prepared.len() >= PREPARED_MAX {
            self.close_prepared()?;
        }
        let name = name_of(id, buffer);
        if self.prepared.insert(id) {
            self.writer.parse_typed(name, sql, types)?;
        }
        Ok(name)
    }

    /// Adds a row to this COPY, or starts it.
    pub(in crate::apply) async fn copy(
        &mut self,
        statement: &Statement,
        row: &[Option<&[u8]>],
    ) -> Result<(), Fault> {
        if self.copy.as_ref().is_none_or(|copy| copy.statement != statement.id) {
            self.end_copy()?;
            self.end_run()?;
            if let Some(check) = &statement.check {
                let mut buffer = [0; 12];
                let name = self.prepared_name(check.id, &check.sql, &[], &mut buffer)?;
                self.run(name, &[])?;
            }
            self.run_prepared(statement, &[])?;
            self.copy =
                Some(Copy { statement: statement.id, rows: CopyRows::new(statement.format, 2 * COPY_BYTES) });
        }
        self.copy_row(row).await
    }

    /// Begins a COPY by a statement of our own, of rows in text form that [`Session::copy_row`] is to bring.
    pub(in crate::apply) async fn copy_by(&mut self, sql: &str) -> Result<(), Fault> {
        self.execute_sql(sql, &[]).await?;
        let rows = CopyRows::new(Format::Text, 2 * COPY_BYTES);
        self.copy = Some(Copy { statement: OWN_COPY, rows });
        Ok(())
    }

    /// Adds a row to the COPY that was begun.
    pub(in crate::apply) async fn copy_row(&mut self, row: &[Option<&[u8]>]) -> Result<(), Fault> {
        if let Some(copy) = &mut self.copy {
            copy.rows.push(row)?;
            self.copied += 1;
            if copy.rows.waiting().len() >= COPY_BYTES {
                self.writer.copy_data(copy.rows.waiting())?;
                copy.rows.clear();
            }
        }
        self.writer.drain().await
    }

    pub(super) fn end_copy(&mut self) -> Result<(), Fault> {
        if let Some(mut copy) = self.copy.take() {
            copy.rows.end();
            self.writer.copy_data(copy.rows.waiting())?;
            self.writer.copy_done()?;
        }
        Ok(())
    }
}

/// The planner's statements are prepared as `p` and their number.
pub(super) fn name_of(id: u32, buffer: &mut [u8; 12]) -> &str {
    use std::io::Write;
    let mut rest = buffer.as_mut_slice();
    let written = write!(rest, "p{id}").is_ok();
    debug_assert!(written, "a u32 has at most ten digits");
    let free = rest.len();
    let length = buffer.len() - free;
    std::str::from_utf8(buffer.get(..length).unwrap_or_default()).unwrap_or_default()
}
