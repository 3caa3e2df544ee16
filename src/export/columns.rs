//! Rows of one definition of a table, in memory, column by column, and the Parquet schema that they are written under.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
    FloatType, Int32Type, Int64Type,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::change::Transaction;
use super::typed::{DIGITS_64, Kind, Typed};
use crate::model::Relation;

/// What each value takes in memory beside its bytes.
const VALUE_BYTES: usize = 40;

/// Values of a column, with a level for each row: how much of the path to it is there.
struct Column {
    kind: Kind,
    values: Values,
    levels: Vec<i16>,
}

enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Fixed(Vec<FixedLenByteArray>),
    Bytes(Vec<ByteArray>),
}

/// What goes into a column.
pub(super) enum Field<'a> {
    /// None of the row is told.
    Absent,
    Null,
    Text(Cow<'a, str>),
}

impl Column {
    fn new(kind: Kind) -> Column {
        let values = match kind {
            Kind::Bool => Values::Bool(Vec::new()),
            Kind::Int32(_) | Kind::Unsigned | Kind::Date => Values::Int32(Vec::new()),
            Kind::Int64 | Kind::Timestamp { .. } => Values::Int64(Vec::new()),
            Kind::Decimal { precision, .. } if precision <= DIGITS_64 => Values::Int64(Vec::new()),
            Kind::Decimal { .. } | Kind::Uuid => Values::Fixed(Vec::new()),
            Kind::Float => Values::Float(Vec::new()),
            Kind::Double => Values::Double(Vec::new()),
            Kind::Bytes | Kind::Text => Values::Bytes(Vec::new()),
        };
        Column { kind, values, levels: Vec::new() }
    }

    /// `outer` is the level of a row that is told. `false` where the column can't hold the value, and a null stands for it.
    fn push(&mut self, outer: i16, field: &Field<'_>) -> bool {
        let read = match field {
            Field::Absent => {
                self.levels.push(outer - 1);
                return true;
            }
            Field::Null => None,
            Field::Text(text) => self.kind.read(text),
        };
        let is_held = match (&mut self.values, read) {
            (Values::Bool(values), Some(Typed::Bool(value))) => push(values, value),
            (Values::Int32(values), Some(Typed::Int32(value))) => push(values, value),
            (Values::Int64(values), Some(Typed::Int64(value))) => push(values, value),
            (Values::Float(values), Some(Typed::Float(value))) => push(values, value),
            (Values::Double(values), Some(Typed::Double(value))) => push(values, value),
            (Values::Fixed(values), Some(Typed::Int128(value))) => {
                push(values, FixedLenByteArray::from(value.to_be_bytes().to_vec()))
            }
            (Values::Fixed(values), Some(Typed::Bytes(value))) => {
                push(values, FixedLenByteArray::from(value))
            }
            (Values::Bytes(values), Some(Typed::Bytes(value))) => push(values, ByteArray::from(value)),
            _ => false,
        };
        self.levels.push(outer + i16::from(is_held));
        is_held || matches!(field, Field::Null)
    }

    fn schema(&self, name: &str) -> Result<Type> {
        let (physical, logical) = match self.kind {
            Kind::Bool => (Physical::BOOLEAN, None),
            Kind::Int32(bits) => (Physical::INT32, Some(LogicalType::integer(bits, true))),
            Kind::Unsigned => (Physical::INT32, Some(LogicalType::integer(32, false))),
            Kind::Int64 => (Physical::INT64, Some(LogicalType::integer(64, true))),
            Kind::Float => (Physical::FLOAT, None),
            Kind::Double => (Physical::DOUBLE, None),
            Kind::Date => (Physical::INT32, Some(LogicalType::Date)),
            Kind::Timestamp { utc } => (Physical::INT64, Some(LogicalType::timestamp(utc, TimeUnit::MICROS))),
            Kind::Uuid => (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)),
            Kind::Bytes => (Physical::BYTE_ARRAY, None),
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Decimal { precision, scale } => {
                let physical =
                    if precision <= DIGITS_64 { Physical::INT64 } else { Physical::FIXED_LEN_BYTE_ARRAY };
                (physical, Some(LogicalType::decimal(scale, precision)))
            }
        };
        let mut builder = Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical);
        if let Kind::Decimal { precision, scale } = self.kind {
            builder = builder.with_precision(precision).with_scale(scale);
        }
        if physical == Physical::FIXED_LEN_BYTE_ARRAY {
            builder = builder.with_length(16);
        }
        builder.build()
    }

    fn write<W: Write + Send>(&self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<()> {
        let levels = Some(self.levels.as_slice());
        match &self.values {
            Values::Bool(values) => write::<BoolType, _>(group, values, levels, None),
            Values::Int32(values) => write::<Int32Type, _>(group, values, levels, None),
            Values::Int64(values) => write::<Int64Type, _>(group, values, levels, None),
            Values::Float(values) => write::<FloatType, _>(group, values, levels, None),
            Values::Double(values) => write::<DoubleType, _>(group, values, levels, None),
            Values::Fixed(values) => write::<FixedLenByteArrayType, _>(group, values, levels, None),
            Values::Bytes(values) => write::<ByteArrayType, _>(group, values, levels, None),
        }
    }
}

fn push<T>(values: &mut Vec<T>, value: T) -> bool {
    values.push(value);
    true
}

fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
    repeats: Option<&[i16]>,
) -> Result<()> {
    let column = group.next_column()?;
    let mut column =
        column.ok_or_else(|| ParquetError::General("fewer columns than in the schema".into()))?;
    column.typed::<T>().write_batch(values, levels, repeats)?;
    column.close()
}

/// A list of texts in each row; with `pairs` a map.
#[derive(Default)]
struct Lists {
    items: Vec<ByteArray>,
    pairs: Vec<ByteArray>,
    levels: Vec<i16>,
    repeats: Vec<i16>,
}

impl Lists {
    fn row(&mut self, items: impl Iterator<Item = (String, String)>) {
        let before = self.items.len();
        for (item, pair) in items {
            self.repeats.push(i16::from(self.items.len() > before));
            self.levels.push(1);
            self.items.push(ByteArray::from(item.into_bytes()));
            self.pairs.push(ByteArray::from(pair.into_bytes()));
        }
        if self.items.len() == before {
            self.repeats.push(0);
            self.levels.push(0);
        }
    }

    fn write<W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        is_map: bool,
    ) -> Result<()> {
        let (levels, repeats) = (Some(self.levels.as_slice()), Some(self.repeats.as_slice()));
        write::<ByteArrayType, _>(group, &self.items, levels, repeats)?;
        if is_map { write::<ByteArrayType, _>(group, &self.pairs, levels, repeats) } else { Ok(()) }
    }
}

/// Rows that are not written yet.
pub(super) struct Rows {
    schema: TypePtr,
    numbers: Vec<i64>,
    operations: Vec<ByteArray>,
    ends: Vec<i64>,
    times: Vec<i64>,
    xids: Vec<i32>,
    unsent: Lists,
    /// What a column can't hold, by its name.
    texts: Lists,
    before: Vec<Column>,
    columns: Vec<Column>,
    /// About what they take in memory.
    pub(super) bytes: usize,
}

/// A row of the file.
pub(super) struct Line<'a> {
    pub(super) transaction: &'a Transaction,
    pub(super) number: u64,
    pub(super) operation: &'static str,
    pub(super) unsent: Vec<String>,
    /// As many as the table has columns.
    pub(super) before: Vec<Field<'a>>,
    pub(super) row: Vec<Field<'a>>,
}

impl Rows {
    pub(super) fn new(relation: &Relation) -> Result<Rows> {
        let columns =
            || relation.columns.iter().map(|column| Column::new(Kind::of(column))).collect::<Vec<_>>();
        let (before, columns) = (columns(), columns());
        Ok(Rows {
            schema: Arc::new(schema(relation, &columns)?),
            numbers: Vec::new(),
            operations: Vec::new(),
            ends: Vec::new(),
            times: Vec::new(),
            xids: Vec::new(),
            unsent: Lists::default(),
            texts: Lists::default(),
            before,
            columns,
            bytes: 0,
        })
    }

    pub(super) fn schema(&self) -> TypePtr {
        Arc::clone(&self.schema)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn push(&mut self, relation: &Relation, line: Line<'_>) {
        let Line { transaction, number, operation, unsent, before, row } = line;
        self.numbers.push(number.cast_signed());
        self.operations.push(ByteArray::from(operation));
        self.ends.push(transaction.end.0.cast_signed());
        self.times.push(transaction.time.unix_microseconds());
        self.xids.push(transaction.xid.0.cast_signed());
        self.bytes += unsent.iter().map(|name| name.len() + VALUE_BYTES).sum::<usize>() + 4 * VALUE_BYTES;
        self.unsent.row(unsent.into_iter().map(|name| (name, String::new())));
        let mut texts = Vec::new();
        for (outer, prefix, columns, fields) in
            [(1, BEFORE, &mut self.before, before), (0, "", &mut self.columns, row)]
        {
            for ((column, field), described) in columns.iter_mut().zip(fields).zip(&relation.columns) {
                if let Field::Text(text) = &field {
                    self.bytes += text.len();
                }
                self.bytes += VALUE_BYTES;
                if !column.push(outer, &field)
                    && let Field::Text(text) = field
                {
                    texts.push((format!("{prefix}{}", described.name), text.into_owned()));
                }
            }
        }
        self.texts.row(texts.into_iter());
    }

    /// As one row group.
    pub(super) fn write<W: Write + Send>(&self, file: &mut SerializedFileWriter<W>) -> Result<()> {
        let mut whole = file.next_row_group()?;
        let group = &mut whole;
        write::<Int64Type, _>(group, &self.numbers, None, None)?;
        write::<ByteArrayType, _>(group, &self.operations, None, None)?;
        write::<Int64Type, _>(group, &self.ends, None, None)?;
        write::<Int64Type, _>(group, &self.times, None, None)?;
        write::<Int32Type, _>(group, &self.xids, None, None)?;
        self.unsent.write(group, false)?;
        self.texts.write(group, true)?;
        for column in self.before.iter().chain(&self.columns) {
            column.write(group)?;
        }
        whole.close().map(drop)
    }
}

/// What comes before the name of a column where a value of the row before is told as text.
const BEFORE: &str = "_before.";

/// Our columns begin with an underscore, and with one more while a column of the table is called so.
fn prefix(relation: &Relation) -> String {
    const OURS: [&str; 8] = ["number", "op", "lsn", "time", "xid", "unsent", "text", "before"];
    let mut prefix = String::from("_");
    let is_taken = |prefix: &str| {
        let taken = |name: &str| OURS.iter().any(|own| name.eq_ignore_ascii_case(&format!("{prefix}{own}")));
        relation.columns.iter().any(|column| taken(&column.name))
    };
    while is_taken(&prefix) {
        prefix.push('_');
    }
    prefix
}

fn schema(relation: &Relation, columns: &[Column]) -> Result<Type> {
    let prefix = prefix(relation);
    let named = |name: &str| format!("{prefix}{name}");
    let required = |name: &str, physical, logical| -> Result<TypePtr> {
        let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        builder.with_logical_type(Some(logical)).build().map(Arc::new)
    };
    let group = |name: &str, repetition, logical, fields| -> Result<TypePtr> {
        let builder = Type::group_type_builder(name).with_repetition(repetition);
        builder.with_logical_type(logical).with_fields(fields).build().map(Arc::new)
    };
    let text = |name: &str| required(name, Physical::BYTE_ARRAY, LogicalType::String);
    let list = group("list", Repetition::REPEATED, None, vec![text("element")?])?;
    let map = group("key_value", Repetition::REPEATED, None, vec![text("key")?, text("value")?])?;
    let mut fields = vec![
        required(&named("number"), Physical::INT64, LogicalType::integer(64, true))?,
        text(&named("op"))?,
        required(&named("lsn"), Physical::INT64, LogicalType::integer(64, false))?,
        required(&named("time"), Physical::INT64, LogicalType::timestamp(true, TimeUnit::MICROS))?,
        required(&named("xid"), Physical::INT32, LogicalType::integer(32, false))?,
        group(&named("unsent"), Repetition::REQUIRED, Some(LogicalType::List), vec![list])?,
        group(&named("text"), Repetition::REQUIRED, Some(LogicalType::Map), vec![map])?,
    ];
    let described = || {
        let each = relation.columns.iter().zip(columns);
        each.map(|(described, column)| column.schema(&described.name).map(Arc::new))
            .collect::<Result<Vec<_>>>()
    };
    if !columns.is_empty() {
        fields.push(group(&named("before"), Repetition::OPTIONAL, None, described()?)?);
    }
    fields.extend(described()?);
    Type::group_type_builder("change").with_fields(fields).build()
}
