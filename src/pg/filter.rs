//! Filters of one table as they are typed: `TABLE=a,b` for columns, `TABLE=EXPRESSION` for rows.

use std::str::FromStr;

use super::pattern::Pattern;

/// Of the tables that match, only these columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnList {
    pub tables: Pattern,
    pub columns: Vec<String>,
}

/// Of the tables that match, only rows of which the expression is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFilter {
    pub tables: Pattern,
    pub expression: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BadFilter {
    #[error("'{0}' is not a table and its columns, such as public.users=id,name")]
    Columns(String),
    #[error("'{0}' is not a table and a condition, such as public.orders=region = 'EU'")]
    Rows(String),
}

impl FromStr for ColumnList {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<ColumnList, BadFilter> {
        let parse = || {
            let (tables, list) = split_once_unquoted(text, '=')?;
            let tables = tables.parse().ok()?;
            let mut columns = Vec::new();
            let mut rest = Some(list);
            while let Some(list) = rest {
                let (name, others) =
                    split_once_unquoted(list, ',').map_or((list, None), |(a, b)| (a, Some(b)));
                columns.push(identifier(name.trim())?);
                rest = others;
            }
            Some(ColumnList { tables, columns })
        };
        parse().ok_or_else(|| BadFilter::Columns(text.to_owned()))
    }
}

impl FromStr for RowFilter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<RowFilter, BadFilter> {
        let parse = || {
            let (tables, expression) = split_once_unquoted(text, '=')?;
            let expression = expression.trim().to_owned();
            (!expression.is_empty()).then_some(RowFilter { tables: tables.parse().ok()?, expression })
        };
        parse().ok_or_else(|| BadFilter::Rows(text.to_owned()))
    }
}

/// Cuts at the first `at` that is not inside double quotes.
fn split_once_unquoted(text: &str, at: char) -> Option<(&str, &str)> {
    let mut quoted = false;
    let place = text.char_indices().find_map(|(index, character)| {
        quoted ^= character == '"';
        (character == at && !quoted).then_some(index)
    })?;
    Some((text.get(..place)?, text.get(place.saturating_add(at.len_utf8())..)?))
}

/// One name, quoted or folded to lower case.
fn identifier(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('"') {
        let inner = inner.strip_suffix('"')?;
        let lone = inner.replace("\"\"", "").contains('"');
        return (!lone && !inner.is_empty()).then(|| inner.replace("\"\"", "\""));
    }
    let plain = !text.is_empty() && !text.contains(|c: char| c == '"' || c == '.' || c.is_whitespace());
    plain.then(|| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_tables() {
        #[track_caller]
        fn check(text: &str, tables: &str, columns: &[&str]) {
            let list: ColumnList = text.parse().unwrap();
            assert_eq!(list.tables.to_string(), tables);
            assert_eq!(list.columns, columns);
        }
        check("public.t=a,b", "public.t", &["a", "b"]);
        check("T=ID, Name", "T", &["id", "name"]);
        check(r#""a=b"."c.d"="x,y","Q""q",z"#, r#""a=b"."c.d""#, &["x,y", "Q\"q", "z"]);
        for text in
            ["", "t", "t=", "t=a,,b", "t=a b", "=a", "t=\"a", "t=\"\"", "t=a.b", "a.b.c=d", "t=\"a\"b"]
        {
            assert!(text.parse::<ColumnList>().is_err(), "{text}");
        }
    }

    #[test]
    fn conditions_of_tables() {
        let filter: RowFilter = "\"S=\".t=a = 'x=y' and b > 1 ".parse().unwrap();
        assert_eq!(filter.tables.to_string(), "\"S=\".t");
        assert_eq!(filter.expression, "a = 'x=y' and b > 1");
        for text in ["", "t", "t= ", "=a"] {
            assert!(text.parse::<RowFilter>().is_err(), "{text}");
        }
    }
}
