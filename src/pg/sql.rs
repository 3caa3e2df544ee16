//! Names and values written into SQL.

pub use crate::model::{quote_ident, quote_literal};

/// A string constant of a replication command, where a backslash means itself (`repl_scanner.l`).
pub(super) fn quote_replication_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The value of pgoutput's option `publication_names`: a list of quoted names.
pub fn publication_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_ident).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_could_end_the_quote() {
        assert_eq!(quote_ident(r#"a"b\c"#), r#""a""b\c""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(quote_replication_literal(r"a\'b"), r"'a\''b'");
        assert_eq!(publication_names(["a", "b\"c"]), r#""a","b""c""#);
    }
}
