//! The table of contents of a dump in pg_dump's custom format: what is in it, and what needs what.
//!
//! `pg_restore --list` shows the same, but not so that it could be read back: names stand there without quotes, so where one has
//! a blank nobody knows which word is whose. The format is that of `pg_backup_archiver.c` (`WriteHead`, `WriteToc`), unchanged since
//! PostgreSQL 12 but for what [`COMPRESSION_IS_A_BYTE`] and [`HAS_RELKIND`] brought. Pure.

/// Of the format, not of PostgreSQL: 1.12 is of PostgreSQL 9.0.
const OLDEST: (u8, u8) = (1, 12);
const HAS_ACCESS_METHOD: (u8, u8) = (1, 14);
const COMPRESSION_IS_A_BYTE: (u8, u8) = (1, 15);
const HAS_RELKIND: (u8, u8) = (1, 16);

const CUSTOM_FORMAT: u8 = 1;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unreadable {
    #[error("it is no dump in pg_dump's custom format")]
    NotADump,
    #[error("its format, {0}.{1}, is not known")]
    Version(u8, u8),
    #[error("its table of contents makes no sense at byte {0}")]
    Damaged(usize),
}

/// Where pg_dump puts an entry with respect to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// That of what it belongs to.
    None,
    PreData,
    Data,
    PostData,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) id: u32,
    /// What pg_dump calls the description, such as `FK CONSTRAINT`.
    pub(super) kind: String,
    pub(super) schema: Option<String>,
    /// Of the object; with the table's before it where a constraint, a trigger and the like is meant.
    pub(super) tag: String,
    pub(super) section: Section,
    /// The SQL that makes it, without owner and tablespace.
    pub(super) definition: String,
    /// Empty for that of the database; none for what has no place of its own.
    pub(super) tablespace: Option<String>,
    pub(super) needs: Vec<u32>,
}

/// All entries, in the order in which they can be made.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Item>, Unreadable> {
    let mut cursor = Cursor { bytes, at: 0, int_size: 4 };
    if cursor.take(5) != Ok(b"PGDMP".as_slice()) {
        return Err(Unreadable::NotADump);
    }
    let version = (cursor.byte()?, cursor.byte()?);
    if version < OLDEST || version.0 > 1 {
        return Err(Unreadable::Version(version.0, version.1));
    }
    let _revision = cursor.byte()?;
    cursor.int_size = cursor.byte()?.into();
    let offset_size: usize = cursor.byte()?.into();
    if cursor.byte()? != CUSTOM_FORMAT {
        return Err(Unreadable::NotADump);
    }
    if version >= COMPRESSION_IS_A_BYTE {
        cursor.byte()?;
    } else {
        cursor.int()?;
    }
    for _part_of_the_date in 0..7 {
        cursor.int()?;
    }
    for _database_and_versions in 0..3 {
        cursor.string()?;
    }
    let count = cursor.int()?;
    let items = (0..count).map(|_| item(&mut cursor, version, offset_size)).collect();
    // A later format may have more in each entry, which then reads as nonsense.
    match items {
        Err(Unreadable::Damaged(_)) if version > HAS_RELKIND => {
            Err(Unreadable::Version(version.0, version.1))
        }
        items => items,
    }
}

fn item(cursor: &mut Cursor<'_>, version: (u8, u8), offset_size: usize) -> Result<Item, Unreadable> {
    let id = cursor.int()?;
    let id = u32::try_from(id).ok().filter(|id| *id > 0).ok_or(Unreadable::Damaged(cursor.at))?;
    let _has_data = cursor.int()?;
    let _class = cursor.string()?;
    let _oid = cursor.string()?;
    let tag = cursor.string()?.unwrap_or_default();
    let kind = cursor.string()?.filter(|kind| !kind.is_empty()).ok_or(Unreadable::Damaged(cursor.at))?;
    let section = match cursor.int()? {
        1 => Section::None,
        2 => Section::PreData,
        3 => Section::Data,
        4 => Section::PostData,
        _ => return Err(Unreadable::Damaged(cursor.at)),
    };
    let definition = cursor.string()?.unwrap_or_default();
    let _drop = cursor.string()?;
    let _copy = cursor.string()?;
    let schema = cursor.string()?.filter(|schema| !schema.is_empty());
    let tablespace = cursor.string()?;
    if version >= HAS_ACCESS_METHOD {
        cursor.string()?;
    }
    if version >= HAS_RELKIND {
        cursor.int()?;
    }
    let _owner = cursor.string()?;
    let _with_oids = cursor.string()?;
    let mut needs = Vec::new();
    while let Some(id) = cursor.string()? {
        needs.push(id.parse().map_err(|_| Unreadable::Damaged(cursor.at))?);
    }
    // Where its data are.
    cursor.take(1 + offset_size)?;
    Ok(Item { id, kind, schema, tag, section, definition, tablespace, needs })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    int_size: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let end = self.at.checked_add(count).ok_or(Unreadable::Damaged(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(Unreadable::Damaged(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.take(1)?.first().copied().ok_or(Unreadable::Damaged(self.at))
    }

    /// A byte for the sign, then the bytes of the number, least first.
    fn int(&mut self) -> Result<i64, Unreadable> {
        let damaged = Unreadable::Damaged(self.at);
        let negative = match self.byte()? {
            0 => false,
            1 => true,
            _ => return Err(damaged),
        };
        let number = self
            .take(self.int_size)?
            .iter()
            .rev()
            .try_fold(0_i64, |number, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)));
        let number = number.ok_or(damaged)?;
        Ok(if negative { -number } else { number })
    }

    /// Its length, or -1 for none, then its bytes.
    fn string(&mut self) -> Result<Option<String>, Unreadable> {
        let damaged = Unreadable::Damaged(self.at);
        match self.int()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| damaged)?;
                Ok(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(bytes: &mut Vec<u8>, number: i32) {
        bytes.push(u8::from(number < 0));
        bytes.extend(number.unsigned_abs().to_le_bytes());
    }

    fn string(bytes: &mut Vec<u8>, text: Option<&str>) {
        int(bytes, text.map_or(-1, |text| i32::try_from(text.len()).unwrap()));
        bytes.extend(text.unwrap_or_default().as_bytes());
    }

    /// As pg_dump of the format's version writes it.
    fn dump(minor: u8, items: &[Item]) -> Vec<u8> {
        let mut bytes = b"PGDMP".to_vec();
        bytes.extend([1, minor, 0, 4, 8, CUSTOM_FORMAT]);
        match minor {
            15.. => bytes.push(1),
            _ => int(&mut bytes, -1),
        }
        (0..7).for_each(|part| int(&mut bytes, part));
        ["d", "15.1", "15.1"].iter().for_each(|text| string(&mut bytes, Some(text)));
        int(&mut bytes, i32::try_from(items.len()).unwrap());
        for item in items {
            int(&mut bytes, i32::try_from(item.id).unwrap());
            int(&mut bytes, 0);
            ["1259", "16384", &item.tag, &item.kind].iter().for_each(|text| string(&mut bytes, Some(text)));
            int(&mut bytes, item.section as i32 + 1);
            string(&mut bytes, Some(&item.definition));
            ["drop", ""].iter().for_each(|text| string(&mut bytes, Some(text)));
            string(&mut bytes, item.schema.as_deref());
            string(&mut bytes, item.tablespace.as_deref());
            if minor >= 14 {
                string(&mut bytes, Some("heap"));
            }
            if minor >= 16 {
                int(&mut bytes, 114);
            }
            ["owner", "false"].iter().for_each(|text| string(&mut bytes, Some(text)));
            item.needs.iter().for_each(|id| string(&mut bytes, Some(&id.to_string())));
            string(&mut bytes, None);
            bytes.extend([1; 9]);
        }
        bytes
    }

    fn items() -> Vec<Item> {
        let item = |id, kind: &str, schema: Option<&str>, tag: &str, section, needs: &[u32]| Item {
            id,
            kind: kind.into(),
            schema: schema.map(str::to_owned),
            tag: tag.into(),
            section,
            definition: format!("CREATE {kind}"),
            tablespace: (kind == "TABLE").then(|| "far".to_owned()),
            needs: needs.to_vec(),
        };
        vec![
            item(7, "SCHEMA", None, "a b", Section::PreData, &[]),
            item(70_000, "TABLE", Some("a b"), "new\nline \"é", Section::PreData, &[7]),
            item(9, "COMMENT", Some("a b"), "TABLE x", Section::None, &[70_000, 7]),
            item(10, "INDEX", Some("a b"), "i", Section::PostData, &[70_000]),
        ]
    }

    #[test]
    fn entries_of_all_formats() {
        for minor in 12..=16 {
            assert_eq!(read(&dump(minor, &items())).unwrap(), items(), "1.{minor}");
        }
    }

    #[test]
    fn what_is_no_dump_is_told() {
        assert_eq!(read(b"--\n-- PostgreSQL"), Err(Unreadable::NotADump));
        assert_eq!(read(&dump(11, &items())), Err(Unreadable::Version(1, 11)));
        let whole = dump(16, &items());
        for length in 5..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        // One more field of an unknown format.
        let mut later = dump(16, &items());
        later[6] = 17;
        assert_eq!(read(&later).unwrap(), items());
        later.insert(later.len() - 9, 77);
        later.truncate(later.len() - 1);
        later[90] = 9;
        assert_eq!(read(&later), Err(Unreadable::Version(1, 17)));
    }

    #[test]
    fn odd_bytes_do_not_panic() {
        let whole = dump(14, &items());
        for at in 0..whole.len() {
            for value in [0, 1, 127, 255] {
                let mut odd = whole.clone();
                odd[at] = value;
                let _ = read(&odd);
            }
        }
    }
}
