//! Rows as a base of the archive has them: what they were before the log says anything of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::{Archive, Base, BaseTable, Covered, base_before};
use crate::model::{Column, Fault, Position, Relation};
use crate::pg::unescape;
use crate::transform::{Cell, Row};

/// Reads the rows of some tables, by the definitions that are given, from the newest base that has nothing from behind a position.
pub(super) fn rows_before(
    archive: &Archive,
    position: Position,
    relations: &HashMap<u32, Arc<Relation>>,
    mut each: impl FnMut(&Arc<Relation>, Row) -> Result<(), Fault>,
) -> Result<Option<Covered>, Fault> {
    let Some(base) = base_before(archive, position)? else { return Ok(None) };
    let covered = Covered::by(&base, |oid| relations.contains_key(&oid))?;
    for table in &base.tables {
        let Some(relation) = relations.get(&table.oid) else { continue };
        rows(archive, &base, table, |line| each(relation, row(relation, table, line)))?;
    }
    Ok(Some(covered))
}

/// Each row of a table, as COPY prints it.
fn rows(
    archive: &Archive,
    base: &Base,
    table: &BaseTable,
    mut each: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (oid, number, file) in table.files() {
        let mut reader = archive.base_reader(&base.begin, oid, number, file)?;
        let mut rest: Vec<u8> = Vec::new();
        while let Some(block) = reader.block()? {
            rest.extend_from_slice(&block);
            let whole = memchr::memrchr(b'\n', &rest).map_or(0, |end| end + 1);
            let (lines, behind) = rest.split_at(whole);
            let lines = lines.strip_suffix(b"\n").into_iter().flat_map(|lines| lines.split(|b| *b == b'\n'));
            lines.into_iter().try_for_each(&mut each)?;
            rest = behind.to_vec();
        }
    }
    Ok(())
}

/// A row in the columns of a definition; what the base does not have of it is unknown.
fn row(relation: &Relation, table: &BaseTable, line: &[u8]) -> Row {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    let cell = |column: &Column| {
        // A column of another type then has another text.
        let same = table.shape.contains(&format!(" {} {} ", column.name, column.type_oid));
        let at = table.columns.iter().position(|name| *name == column.name).filter(|_| same)?;
        Some(unescaped(fields.get(at)?))
    };
    relation.columns.iter().map(|column| cell(column).unwrap_or_default()).collect()
}

/// A field in the text format of COPY.
fn unescaped(field: &[u8]) -> Cell {
    if field == b"\\N" {
        return Cell::Null;
    }
    let mut text = Vec::with_capacity(field.len());
    unescape(field, &mut text);
    Cell::Text(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_what_was_copied() {
        let check = |field: &[u8], text: &[u8]| assert_eq!(unescaped(field), Cell::Text(text.into()));
        check(b"", b"");
        check(b"it's", b"it's");
        check(b"\\\\N", b"\\N");
        check(b"a\\tb\\nc\\\\\\r\\v\\f\\b", b"a\tb\nc\\\r\x0b\x0c\x08");
        assert_eq!(unescaped(b"\\N"), Cell::Null);
    }
}
