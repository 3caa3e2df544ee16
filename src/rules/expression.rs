//! Expressions over a row, in CEL (the Common Expression Language).
//!
//! A column is a variable of its name, or `row.name`, or `row["any name"]`. What is read is known before any row: an expression may
//! not take the row as a whole. Errors never tell a value.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::{Context, Env, ExecutionError, IdedExpr, Program, Value as Cel};
use chrono::{DateTime, FixedOffset, NaiveDateTime};

use crate::model::{Column, Value};

/// What all expressions know: the standard of CEL, and functions on strings as `substring`, `split`, `lowerAscii`.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    // It fails only where a name is taken, and in the standard none is.
    let added = environment.add_extension(cel::extensions::strings);
    debug_assert!(added.is_ok());
    Arc::new(environment)
});

/// The variable that has all columns.
const ROW: &str = "row";
/// Names of types, which are values of the language.
const TYPES: [&str; 13] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "int",
    "list",
    "map",
    "null_type",
    "optional_type",
    "string",
    "timestamp",
    "type",
    "uint",
];
/// More is not read.
const TEXT_BYTES_MAX: usize = 16 << 10;

pub(super) struct Expression {
    program: Program,
    /// Columns by their names as variables, and through `row`.
    variables: BTreeSet<String>,
    fields: BTreeSet<String>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression").field("reads", &self.reads().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Expression {
    /// Why it is none, in words.
    pub(super) fn parse(text: &str) -> Result<Expression, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err("it is too long".into());
        }
        let program = ENVIRONMENT.compile(text).map_err(|errors| {
            let told = errors.errors.first().map(|error| (error.pos.1, error.msg.as_str()));
            told.map_or_else(|| "it is not CEL".to_owned(), |(at, what)| format!("at character {at}: {what}"))
        })?;
        let mut found = Found::default();
        found.walk(program.expression(), &[])?;
        let unknown = found.functions.iter().find(|name| !is_known(name));
        if let Some(name) = unknown {
            return Err(format!("there is no function {name}"));
        }
        let Found { variables, fields, .. } = found;
        Ok(Expression { program, variables, fields })
    }

    /// Names of the columns that it reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = &str> {
        self.variables.union(&self.fields).map(String::as_str)
    }

    /// Its value for a row, of which it asks for what it reads.
    fn value<'v>(&self, get: &dyn Fn(&str) -> Option<(&'v Column, Value<'v>)>) -> Result<Cel, String> {
        let typed = |name: &str| {
            let (column, value) = get(name).ok_or_else(|| format!("there is no column {name}"))?;
            typed(column, value)
        };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for name in &self.variables {
            context.add_variable_from_value(name.as_str(), typed(name)?);
        }
        if !self.fields.is_empty() {
            let row: Result<HashMap<String, Cel>, String> =
                self.fields.iter().map(|name| Ok((name.clone(), typed(name)?))).collect();
            let row = row?;
            context.add_variable_from_value(ROW, row);
        }
        self.program.execute(&context).map_err(|error| said(&error))
    }

    /// Whether a row passes.
    pub(super) fn passes<'v>(
        &self,
        get: &dyn Fn(&str) -> Option<(&'v Column, Value<'v>)>,
    ) -> Result<bool, String> {
        match self.value(get)? {
            Cel::Bool(passes) => Ok(passes),
            other => Err(format!("it gives {}, where true or false is wanted", other.type_of())),
        }
    }

    /// The text of its value, as PostgreSQL takes it; none is NULL.
    pub(super) fn text<'v>(
        &self,
        get: &dyn Fn(&str) -> Option<(&'v Column, Value<'v>)>,
    ) -> Result<Option<String>, String> {
        Ok(Some(match self.value(get)? {
            Cel::Null => return Ok(None),
            Cel::Bool(value) => if value { "t" } else { "f" }.to_owned(),
            Cel::Int(value) => value.to_string(),
            Cel::UInt(value) => value.to_string(),
            Cel::Float(value) => float(value),
            Cel::String(text) if text.contains('\0') => {
                return Err("it gives a text with a NUL, which PostgreSQL has not".into());
            }
            Cel::String(text) => Arc::unwrap_or_clone(text),
            Cel::Bytes(bytes) => hexadecimal("\\x", &bytes),
            Cel::Timestamp(time) => time.to_rfc3339(),
            other => return Err(format!("it gives a {}, which is no column's value", other.type_of())),
        }))
    }
}

/// What an expression names.
#[derive(Default)]
struct Found {
    variables: BTreeSet<String>,
    fields: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Found {
    /// `bound`: variables of the comprehensions around it, as `x` in `list.exists(x, x > 1)`.
    fn walk(&mut self, expression: &IdedExpr, bound: &[&str]) -> Result<(), String> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => {
                let plain = name.trim_start_matches('.');
                let is_own = bound.contains(&plain) || plain.starts_with('@') || TYPES.contains(&plain);
                if plain == ROW && !bound.contains(&plain) {
                    return Err("row is read column by column, as row.name or row[\"any name\"]".into());
                }
                if !is_own {
                    self.variables.insert(plain.to_owned());
                }
                Ok(())
            }
            Expr::Select(select) if is_row(&select.operand, bound) => {
                self.fields.insert(select.field.clone());
                Ok(())
            }
            Expr::Select(select) => self.walk(&select.operand, bound),
            Expr::Call(call) => {
                if let ("_[_]", [row, name]) = (call.func_name.as_str(), call.args.as_slice())
                    && is_row(row, bound)
                    && let Expr::Literal(LiteralValue::String(name)) = &name.expr
                {
                    self.fields.insert(name.inner().to_owned());
                    return Ok(());
                }
                self.functions.insert(call.func_name.clone());
                let parts = call.target.as_deref().into_iter().chain(&call.args);
                parts.into_iter().try_for_each(|part| self.walk(part, bound))
            }
            Expr::Comprehension(all) => {
                self.walk(&all.iter_range, bound)?;
                self.walk(&all.accu_init, bound)?;
                let own = [all.iter_var.as_str(), all.accu_var.as_str()];
                let inner: Vec<&str> =
                    bound.iter().copied().chain(own).chain(all.iter_var2.as_deref()).collect();
                [&all.loop_cond, &all.loop_step, &all.result]
                    .into_iter()
                    .try_for_each(|part| self.walk(part, &inner))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element, bound)),
            Expr::Map(map) => self.entries(&map.entries, bound),
            Expr::Struct(_) => Err("there are no messages to be made".into()),
        }
    }

    fn entries(&mut self, entries: &[cel::common::ast::IdedEntryExpr], bound: &[&str]) -> Result<(), String> {
        entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                self.walk(&entry.key, bound)?;
                self.walk(&entry.value, bound)
            }
            EntryExpr::StructField(field) => self.walk(&field.value, bound),
        })
    }
}

fn is_row(expression: &IdedExpr, bound: &[&str]) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if name == ROW) && !bound.contains(&ROW)
}

/// Whether there is such a function. Operators have names that are no words.
fn is_known(name: &str) -> bool {
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_alphabetic());
    // A context refuses what would hide a function that is there.
    !is_word || Context::with_env(Arc::clone(&ENVIRONMENT)).add_function(name, |value: i64| value).is_err()
}

/// A value by its column's type. What has no type in the language is its text; a number that is no integer and no float stays text too,
/// so that none is rounded unasked.
fn typed(column: &Column, value: Value<'_>) -> Result<Cel, String> {
    let of = |what: &str| format!("the value of column {} {what}", column.name);
    let text = match value {
        Value::Null => return Ok(Cel::Null),
        Value::Unchanged => return Err(of("was not sent")),
        Value::Binary(_) => return Err(of("is in binary form")),
        Value::Text(text) => std::str::from_utf8(text).map_err(|_| of("is not UTF-8"))?,
    };
    let unreadable = || of("can't be read as its type (infinity, or a year that is out of range)");
    match column.type_oid {
        16 => Ok(Cel::Bool(text == "t")),
        20 | 21 | 23 | 26 => text.parse().map(Cel::Int).map_err(|_| unreadable()),
        700 | 701 => text.parse().map(Cel::Float).map_err(|_| unreadable()),
        1114 => timestamp(text, false).map(Cel::Timestamp).ok_or_else(unreadable),
        1184 => timestamp(text, true).map(Cel::Timestamp).ok_or_else(unreadable),
        _ => Ok(Cel::String(Arc::new(text.to_owned()))),
    }
}

/// `2026-01-31 10:41:59.5`, taken as UTC, or with an offset as `+01` and `+05:30`, of the years that have four digits.
fn timestamp(text: &str, has_offset: bool) -> Option<DateTime<FixedOffset>> {
    if has_offset {
        return DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok();
    }
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok()?;
    Some(time.and_utc().fixed_offset())
}

/// The shortest text that gives the same float again.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let plain = value.to_string();
    if plain.len() <= 20 { plain } else { format!("{value:e}") }
}

/// Bytes as digits behind a prefix.
pub(super) fn hexadecimal(prefix: &str, bytes: &[u8]) -> String {
    bytes.iter().fold(prefix.to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Why an expression has failed, without the values that it failed on.
fn said(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchOverload(overload) => {
            format!("'{}' does not take {}", overload.function(), overload.argument_types().join(", "))
        }
        ExecutionError::UnexpectedType { want, .. } => {
            format!("{want} is wanted, and something else is there")
        }
        ExecutionError::UndeclaredReference(name) => format!("there is no {name}"),
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("a function takes {expected} arguments, and got {actual}")
        }
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("'{operator}' does not take {} and {}", left.type_of(), right.type_of())
        }
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("{} and {} can't be compared", left.type_of(), right.type_of())
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "a division by zero".into(),
        ExecutionError::Overflow(operator, ..) => format!("'{operator}' is out of the range of its type"),
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds".into(),
        ExecutionError::FunctionError { function, .. } => format!("function {function} has failed"),
        ExecutionError::NoSuchKey(_) => "a key is not there".into(),
        _ => "it has failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_oid: u32) -> Column {
        Column { name: name.into(), key: false, type_oid, type_modifier: -1 }
    }

    /// Names, types and texts of a row.
    const ROW: &[(&str, u32, Option<&str>)] = &[
        ("a", 23, Some("3")),
        ("big", 20, Some("9223372036854775807")),
        ("flag", 16, Some("t")),
        ("price", 1700, Some("0.1000")),
        ("ratio", 701, Some("0.1")),
        ("none", 25, None),
        ("name", 25, Some("Ärger")),
        ("when", 1184, Some("2026-01-31 10:41:59.123+01")),
        ("day", 1082, Some("2026-01-31")),
        ("Order Total", 23, Some("7")),
        ("doc", 3802, Some("{\"a\": 1}")),
    ];

    fn value(text: &str) -> Result<Option<String>, String> {
        let columns: Vec<_> = ROW.iter().map(|(name, oid, _)| column(name, *oid)).collect();
        let get = |name: &str| {
            let at = ROW.iter().position(|(other, ..)| *other == name)?;
            let value = ROW[at].2.map_or(Value::Null, |text| Value::Text(text.as_bytes()));
            Some((&columns[at], value))
        };
        Expression::parse(text)?.text(&get)
    }

    #[test]
    fn values_are_typed_by_their_columns() {
        for (text, expected) in [
            ("a + 1", Some("4")),
            ("a / 2", Some("1")),
            ("string(a) + '-' + name", Some("3-Ärger")),
            ("size(name)", Some("5")),
            ("name.substring(0, 1)", Some("Ä")),
            ("name.lowerAscii()", Some("Ärger".to_lowercase().replace('ä', "Ä")).as_deref()),
            ("flag && a > 2", Some("t")),
            ("none == null", Some("t")),
            ("none == null ? 'x' : none", Some("x")),
            ("none", None),
            ("price", Some("0.1000")),
            ("double(price) * 3.0", Some("0.30000000000000004")),
            ("ratio", Some("0.1")),
            ("1e300", Some("1e300")),
            ("when > timestamp('2026-01-31T09:00:00Z')", Some("t")),
            ("when.getFullYear()", Some("2026")),
            ("when", Some("2026-01-31T10:41:59.123+01:00")),
            ("day", Some("2026-01-31")),
            ("row['Order Total'] + row.a", Some("10")),
            ("has(row.a)", Some("t")),
            ("[1, 2, a].exists(x, x == a)", Some("t")),
            ("[1, 2].map(row, row + a)[0]", Some("4")),
            ("type(a) == int", Some("t")),
            ("b'\\x01\\xff'", Some("\\x01ff")),
            ("name in ['x', 'y']", Some("f")),
            ("big == 9223372036854775807", Some("t")),
        ] {
            assert_eq!(value(text).unwrap().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_before_any_row() {
        for (text, said) in [
            ("a +", "at character"),
            ("foo(a)", "no function foo"),
            ("name.frobnicate()", "no function frobnicate"),
            ("row", "column by column"),
            ("row[name]", "column by column"),
            ("", "at character"),
            ("Message{a: 1}", "no messages"),
            (&"(".repeat(5000), ""),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn failures_never_tell_a_value() {
        for text in [
            "big + a",
            "name + a",
            "none > a",
            "a / 0",
            "[a][7]",
            "int(name)",
            "timestamp(name)",
            "name.substring(90)",
            "name.matches(name + '[')",
            "name > a",
            "{name: 1}[name + 'x']",
            "[a]",
            "name ? 1 : 2",
            "duration('1h')",
        ] {
            let error = value(text).unwrap_err();
            for (_, _, secret) in ROW.iter().filter(|(name, ..)| *name != "a" && *name != "flag") {
                assert!(!secret.is_some_and(|secret| error.contains(secret)), "{text}: {error}");
            }
        }
    }

    #[test]
    fn it_is_known_what_is_read() {
        let reads = |text| Expression::parse(text).unwrap().reads().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(reads("a + b.c + row.d + row['e f']"), ["a", "b", "d", "e f"]);
        assert_eq!(reads("[1].all(x, x > y) && type(z) == string"), ["y", "z"]);
        assert_eq!(reads("1 + 1"), Vec::<String>::new());
    }
}
